#!/usr/bin/env bash
# The recipe of the weights in data_specs/bundled: Γ-VAE 64 and EDM-L64, size tiny, on simulated patients only.
set -euo pipefail
export ECHOSYNTH_HOME="${1:-$PWD/echosynth_home/bundled}"
unset nnUNet_raw nnUNet_preprocessed nnUNet_results
ph="$ECHOSYNTH_HOME/phantom"
[ -d "$ph" ] || echosynth phantom "$ph" --patients 150 --seed 2024
[ -d "$ECHOSYNTH_HOME/nnunet/raw" ] || echosynth convert-camus "$ph" --dataset-id 501 --name PHANTOM --split "$ph/database_split"
[ -d "$ECHOSYNTH_HOME/maps" ] || echosynth make-maps --dataset-id 501 --repeats 1
vae="$ECHOSYNTH_HOME/runs/vae64" edm="$ECHOSYNTH_HOME/runs/edml64"
resume() { if [ -f "$1/state.safetensors" ]; then echo --resume; fi; }
echosynth train-vae --model gamma-vae-64 --dataset-id 501 --images 4000 --out "$vae" $(resume "$vae")
echosynth train --model edm-l64 --dataset-id 501 --vae "$vae" --images 20000 --copies 8 --out "$edm" $(resume "$edm")
python docs/recipes/pack_bundled.py "$vae" "$edm" "$ECHOSYNTH_HOME/maps/Dataset501_PHANTOM" data_specs/bundled
