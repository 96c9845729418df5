#!/bin/sh
# The main job on this machine: the sample images through both providers,
# simulated. Run it twice: the second run finds everything done.
set -eu
cd "$(dirname "$0")/.."
data=demo-data
ledger="$data/simulator/ledger.jsonl"
purchases() { if [ -f "$ledger" ]; then wc -l <"$ledger" | tr -d ' '; else echo 0; fi; }

before=$(purchases)
for provider in csm modelslab; do
	echo
	echo "== the sample images through $provider"
	MESHMILL_DATA="$data" bin/enqueue folder examples/images --embedded --simulate --provider "$provider" "$@"
done
echo
echo "Simulated purchases in this run: $(($(purchases) - before)), in all: $(purchases) ($ledger)"
echo "The meshes are plain files under $data/s3/meshmill/meshes; they open in any glTF viewer."
