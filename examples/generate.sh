#!/bin/sh
# Speak a text in the voice of a clip:  examples/generate.sh voice.wav 'Good morning.' en-US out.wav
set -eu
clip=$1 text=$2 dialect=$3 out=$4
api=${COSYGRAPH_URL:-http://127.0.0.1:8000}

headers=$(mktemp)
trap 'rm -f "$headers"' EXIT
status=$(curl --silent --show-error --dump-header "$headers" --output "$out" --write-out '%{http_code}' \
  ${COSYGRAPH_KEY:+--header "Authorization: Bearer $COSYGRAPH_KEY"} \
  --form "prompt_audio=@$clip" --form-string "text=$text" --form-string "dialect=$dialect" "$api/api/generate")
trace=$(sed -n 's/^[Xx]-[Tt]race-[Ii]d: *\([0-9a-f]*\).*/\1/p' "$headers")

if [ "$status" != 200 ]; then
  echo "HTTP $status, trace $trace:" >&2
  cat "$out" >&2 # the error, as JSON
  rm -f "$out"
  exit 1
fi
echo "$out, trace $trace"
