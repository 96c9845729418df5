#!/bin/sh
# The main job on this machine: the sample images through both providers,
# simulated. Run it twice: the second run finds everything done.
set -eu
cd "$(dirname "$0")/.."
data=demo-data
for provider in csm modelslab; do
	echo
	echo "== the sample images through $provider"
	MESHMILL_DATA="$data" bin/enqueue folder examples/images --embedded --simulate --provider "$provider" "$@"
done
echo
ledger="$data/simulator/ledger.jsonl"
echo "The simulator's ledger counts $(wc -l <"$ledger" | tr -d ' ') purchases in all: $ledger"
echo "The meshes are plain files under $data/s3/meshmill/meshes; they open in any glTF viewer."
