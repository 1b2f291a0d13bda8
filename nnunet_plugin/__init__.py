"""nnU-Net trainers and what they are made of. nnU-Net imports every module of this folder: keep nothing else here."""
