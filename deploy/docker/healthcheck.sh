#!/bin/bash
# Succeeds where the server of this machine takes requests: `healthcheck PORT`. Needs no client
# program, so that the image holds none.
set -euo pipefail

exec 3<>"/dev/tcp/127.0.0.1/$1"
printf 'GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
read -r -t 4 _ status _ <&3
[[ $status == 200 ]]
