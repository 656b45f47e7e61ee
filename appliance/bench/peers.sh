#!/bin/bash
# peers.sh installs what Stamp is measured against, once, outside the
# repository: Azurite from npm and MinIO from its Go module. It prints the
# directory, for STAMP_TOOLS.
set -euo pipefail

AZURITE=3.37.0
MINIO=v0.0.0-20260212201848-7aac2a2c5b7c # RELEASE tags are not versions for Go
tools=${STAMP_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/stamp-tools}

if [ ! -e "$tools/azurite/$AZURITE" ]; then
	echo "peers: installing Azurite $AZURITE" >&2
	mkdir -p "$tools/azurite"
	npm install --prefix "$tools/azurite" --no-audit --no-fund --loglevel=error "azurite@$AZURITE" >&2
	touch "$tools/azurite/$AZURITE"
fi
if [ ! -e "$tools/minio/$MINIO" ]; then
	echo "peers: building MinIO $MINIO (some minutes)" >&2
	mkdir -p "$tools/minio"
	cd / # not in this module
	GOBIN="$tools/minio" GOFLAGS= nice go install -trimpath "github.com/minio/minio@$MINIO"
	touch "$tools/minio/$MINIO"
fi
echo "$tools"
