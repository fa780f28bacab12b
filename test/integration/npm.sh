#!/usr/bin/env bash
# npm ci of a small project on a view, without network: its dependencies are packages made here, in the npm cache of
# this run. Run twice, once into an empty node_modules and once over one that lies in the lower layer.
# shellcheck source=test/integration/lib.sh
source "$(dirname "$0")/lib.sh"

export HOME=$scratch npm_config_cache=$scratch/cache npm_config_userconfig=$scratch/npmrc npm_config_offline=true
export npm_config_audit=false npm_config_fund=false npm_config_update_notifier=false
: >"$scratch/npmrc"

# 25 packages of 41 files; each but the first depends on the one before it, and has a command.
lower=$scratch/lower
mkdir -p "$lower/project" "$lower/tarballs" "$scratch/packages"
for package in $(seq 25); do
  directory=$scratch/packages/p$package
  mkdir -p "$directory/lib/deep"
  before=$((package - 1))
  dependencies='{}'
  [ "$before" -eq 0 ] || dependencies="{\"p$before\": \"file:../tarballs/p$before-1.0.0.tgz\"}"
  cat >"$directory/package.json" <<JSON
{ "name": "p$package", "version": "1.0.0", "main": "lib/index.js", "bin": { "say-p$package": "say.js" },
  "dependencies": $dependencies,
  "scripts": { "postinstall": "node -e \"require('fs').writeFileSync('made', 'by postinstall')\"" } }
JSON
  for file in $(seq 38); do echo "exports.n = $file // of p$package" >"$directory/lib/deep/f$file.js"; done
  echo "exports.name = 'p$package'; exports.n = require('./deep/f7.js').n" >"$directory/lib/index.js"
  printf '#!/usr/bin/env node\nconsole.log(require("./lib/index.js").name)\n' >"$directory/say.js"
  (cd "$directory" && npm pack --silent --pack-destination "$lower/tarballs" >/dev/null)
done
{
  echo '{ "name": "project", "version": "1.0.0", "dependencies": {'
  for package in $(seq 24); do echo "\"p$package\": \"file:../tarballs/p$package-1.0.0.tgz\","; done
  echo '"p25": "file:../tarballs/p25-1.0.0.tgz" } }'
} >"$lower/project/package.json"

works() {
  for package in 1 13 25; do
    equal "$("$1/node_modules/.bin/say-p$package")" "p$package"
    equal "$(cat "$1/node_modules/p$package/made")" 'by postinstall'
  done
  (cd "$1" && npm ls --silent >/dev/null)
  equal "$(find "$1/node_modules" -name 'f*.js' -path '*/deep/*' | wc -l)" 950
}

overlay a "$lower"
cd "$scratch/a/merged/project"
check 'npm install writes the lock file' npm install --package-lock-only --ignore-scripts
check 'npm ci' npm ci
check 'the packages work' works .
check 'npm ci once more, which removes and installs all of it' npm ci
check 'the packages work again' works .
check 'npm uninstall of one' npm uninstall p25
check 'it is gone, and the others are there' bash -ec 'test ! -e node_modules/p25; test -e node_modules/p24/made'
cd /
check 'mounting it again works' remount a "$lower"

# Now node_modules lies below: npm ci has to delete lower files and put others in their place.
unmount a
lower_with_modules=$scratch/a/upper:$lower
listing "$scratch/a/upper" >"$scratch/lower.before"
overlay b "$lower_with_modules"
cd "$scratch/b/merged/project"
check 'the lower node_modules works' equal "$(node_modules/.bin/say-p24)" p24
check 'npm install of the missing one' npm install ../tarballs/p25-1.0.0.tgz
check 'npm ci over node_modules of the lower layer' npm ci
check 'the packages work there' works .
cd /
check 'the lower layer is untouched' diff "$scratch/lower.before" <(listing "$scratch/a/upper")
finish
