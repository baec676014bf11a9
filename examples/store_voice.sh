#!/bin/sh
# Store a voice, speak with it, delete it:  examples/store_voice.sh voice.wav anna en-US out.mp3
set -eu
clip=$1 name=$2 dialect=$3 out=$4
api=${COSYGRAPH_URL:-http://127.0.0.1:8000}
ask() { curl --silent --show-error --fail-with-body ${COSYGRAPH_KEY:+--header "Authorization: Bearer $COSYGRAPH_KEY"} "$@"; }

ask --form "audio_sample=@$clip" --form-string "name=$name" --form-string "dialect=$dialect" \
  --form-string 'consent=The speaker agreed, in writing.' "$api/v1/audio/voices"
echo
ask --header 'Content-Type: application/json' --output "$out" \
  --data "{\"model\": \"cosygraph\", \"voice\": \"$name\", \"input\": \"Good morning.\", \"response_format\": \"mp3\"}" \
  "$api/v1/audio/speech"
echo "$out"
ask --request DELETE "$api/v1/audio/voices/$name"
echo
