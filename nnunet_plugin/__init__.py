"""nnU-Net trainers. nnU-Net imports every module of this folder: keep nothing else here."""
