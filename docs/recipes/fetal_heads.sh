#!/bin/sh
# Another dataset from files to report: simulated fetal heads, as docs/other-datasets.md explains it.
# Usage: docs/recipes/fetal_heads.sh OUT [VAE_IMAGES DIFFUSION_IMAGES EPOCHS]; 200 400 1 is the shortest that runs through.
set -eu
out=$1
vae_images=${2:-2000} diffusion_images=${3:-8000} epochs=${4:-12}
here=$(dirname "$0")
bundled=$(python -c 'from echo_synth import specs; print(specs.root() / "bundled")')
export ECHOSYNTH_HOME="$out/home"
trainer=nnUNetTrainerEchoSynth_cpu

python "$here/simulate_fetal_heads.py" "$out/heads" --patients 30 --seed 0
echosynth convert --spec "$out/heads/fetal_head.yaml" --dataset-id 510
echosynth make-maps --dataset-id 510 --repeats 5
# Weights that were trained on hearts are a start: the Γ-VAE knows speckle; of the diffusion model every class learns anew.
echosynth train-vae --model gamma-vae-64 --dataset-id 510 --size light --images "$vae_images" --lr 2e-4 \
    --init "$bundled/gamma-vae-64" --out "$ECHOSYNTH_HOME/runs/vae"
echosynth train --model edm-l64 --dataset-id 510 --size tiny --images "$diffusion_images" --lr 1.2e-3 \
    --vae "$ECHOSYNTH_HOME/runs/vae" --init "$bundled/edm-l64" \
    --out "$ECHOSYNTH_HOME/runs/edm-l64"
echosynth generate --model edm-l64 --nfe 20 --count 120 --checkpoint "$ECHOSYNTH_HOME/runs/edm-l64" --dataset-id 610
echosynth train-segmenter --dataset-id 610 --trainer $trainer --epochs "$epochs" --iterations 25
echosynth predict-segmenter --dataset-id 610 --trainer $trainer \
    --images "$ECHOSYNTH_HOME/nnunet/raw/Dataset510_fetal_head/imagesTs" --out "$ECHOSYNTH_HOME/predictions/heads"
echosynth bootstrap-eval --predictions "$ECHOSYNTH_HOME/predictions/heads" --out "$ECHOSYNTH_HOME/evaluation/heads"
echosynth report "$ECHOSYNTH_HOME/evaluation/heads"
