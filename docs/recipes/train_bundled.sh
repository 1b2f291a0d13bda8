#!/usr/bin/env bash
# The recipe of the weights in data_specs/bundled: Γ-VAE 64, EDM-L64 and its distilled form, on simulated patients only.
# About an hour of one core. Killed, it goes on where it was when it is called again.
set -euo pipefail
export ECHOSYNTH_HOME="${1:-$PWD/echosynth_home/bundled}"
unset nnUNet_raw nnUNet_preprocessed nnUNet_results
ph="$ECHOSYNTH_HOME/phantom" runs="$ECHOSYNTH_HOME/runs" maps="$ECHOSYNTH_HOME/maps/Dataset501_PHANTOM"
[ -d "$ph" ] || echosynth phantom "$ph" --patients 150 --seed 2024
[ -d "$ECHOSYNTH_HOME/nnunet/raw" ] || echosynth convert-camus "$ph" --dataset-id 501 --name PHANTOM --split "$ph/database_split"
[ -d "$maps" ] || echosynth make-maps --dataset-id 501 --recipe anatomy --repeats 1
# A run: its command, once; --resume where it was cut off.
train() {
  if [ -f "$runs/$1/.finished" ]; then return; fi
  if [ -f "$runs/$1/state.safetensors" ]; then resume=--resume; else resume=; fi
  echosynth "${@:2}" --dataset-id 501 --out "$runs/$1" $resume
  touch "$runs/$1/.finished"
}
train vae64 train-vae --model gamma-vae-64 --size light --images 8000
train edml64 train --model edm-l64 --vae "$runs/vae64" --images 24000 --copies 8 --optimizer adamw --lr 1e-3
# A reader of maps for the last third: what is drawn follows its map more closely.
train edml64-map train --model edm-l64 --vae "$runs/vae64" --images 12000 --copies 8 --init "$runs/edml64" --optimizer adamw --lr 5e-4 --map-loss 0.3
train edml64-few distill --teacher "$runs/edml64-map" --images 12000 --optimizer adamw --lr 3e-4 --target data
python docs/recipes/pack_bundled.py "$runs/vae64" "$runs/edml64-map" "$runs/edml64-few" "$maps" data_specs/bundled
