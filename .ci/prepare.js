/**
 * Makes a clone ready to run: installs the npm packages, builds the addon and the TypeScript, each only when it is
 * older than what it is made from. Plain JavaScript on Node's own modules: it runs before anything is installed.
 *
 * `npm start`, `npm test` and `npm run build` come through here.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = fileURLToPath(new URL('..', import.meta.url)).replace(/\/$/, '')

/** Newest modification time (ms) below the paths; 0 when none is there. */
function newest(paths, matches = /./) {
  let time = 0
  for (const path of paths) {
    const stat = statSync(path, { throwIfNoEntry: false })
    if (stat === undefined) continue
    if (stat.isDirectory()) {
      for (const name of readdirSync(path, { withFileTypes: true })) {
        if (name.isDirectory() || matches.test(name.name))
          time = Math.max(time, newest([join(path, name.name)], matches))
      }
    } else {
      time = Math.max(time, stat.mtimeMs)
    }
  }
  return time
}

/** Runs a step silently; on failure shows what it printed and ends the process. */
function step(what, command, args, hint = () => undefined) {
  process.stderr.write(`${what} …\n`)
  const env = { ...process.env }
  // npm warns about settings that it does not know; node-gyp takes Node's headers from here when they are installed.
  const prefix = dirname(dirname(process.execPath))
  if (env.npm_config_nodedir === undefined && existsSync(join(prefix, 'include/node/node_api.h'))) {
    env.npm_config_nodedir = prefix
  }
  const done = spawnSync(command, args, {
    cwd: root,
    env,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  if (done.status === 0) return
  process.stderr.write(`${done.stdout ?? ''}${done.stderr ?? ''}`)
  const because =
    done.error?.message ?? (done.status === null ? `ended by ${done.signal}` : `exit ${done.status}`)
  process.stderr.write(`${what}: failed (${because})${hint() ?? ''}\n`)
  process.exit(1)
}

/** npm as it started us, or the one on PATH. */
function npm(...args) {
  const path = process.env.npm_execpath
  return path !== undefined && /\.c?js$/.test(path) ? [process.execPath, [path, ...args]] : ['npm', args]
}

function missingTools() {
  const packages = { 'g++': 'g++', make: 'make', python3: 'python3' }
  const missing = Object.keys(packages).filter(
    tool => !(process.env.PATH ?? '').split(':').some(directory => existsSync(join(directory, tool))),
  )
  if (missing.length === 0) return undefined
  return `: ${missing.join(', ')} missing; on Debian or Ubuntu: sudo apt-get install ${missing.map(tool => packages[tool]).join(' ')}`
}

function installPackages() {
  const installed = newest([join(root, 'node_modules/.package-lock.json')])
  if (installed >= newest([join(root, 'package-lock.json')]) && installed > 0) return
  step(
    'Installing npm packages',
    ...npm('ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'),
  )
}

function buildAddon() {
  if (!existsSync(join(root, 'binding.gyp')) || existsSync(join(root, `prebuilds/linux-${process.arch}`)))
    return
  // make knows which of the files are stale; the stamp says that it was asked since the last change.
  const stamp = join(root, 'build/.made')
  if (newest([stamp]) >= newest([join(root, 'native'), join(root, 'binding.gyp')])) return
  step('Building the native addon', ...npm('run', '--silent', 'build:native'), missingTools)
  writeFileSync(stamp, '')
}

/** Touched by each compilation; what is made from the JavaScript is older than this when it is stale. */
const compiled = join(root, 'dist/.compiled')

function compileTypeScript() {
  const sources = ['src', 'test', 'tsconfig.json', '.ci/compile.js'].map(path => join(root, path))
  if (newest([compiled]) >= newest(sources, /\.(ts|js)$/)) return
  step('Compiling TypeScript', process.execPath, [join(root, '.ci/compile.js')])
}

/** The daemon and the command line as few files; taken while they are not older than what they are made of. */
function bundle() {
  const bundles = ['daemon/main', 'cli/main', 'cli/main.mount', 'cli/fuse-lamina'].map(name =>
    join(root, 'dist/src', `${name}.bundle.cjs`),
  )
  if (bundles.every(path => newest([path]) >= newest([compiled]))) return
  step('Bundling', process.execPath, [join(root, '.ci/bundle.js')])
}

/** From the definitions that --help prints. */
function manPages() {
  if (newest([join(root, 'dist/man/lamina.1')]) >= newest([compiled])) return
  step('Writing man pages', process.execPath, [join(root, '.ci/man.js')])
}

export function prepare() {
  const major = Number(process.versions.node.split('.')[0])
  if (major < 20) {
    process.stderr.write(`Lamina needs Node.js 20 or newer; this is ${process.version}.\n`)
    process.exit(1)
  }
  installPackages()
  buildAddon()
  compileTypeScript()
  bundle()
  manPages()
}

if (process.argv[1] === fileURLToPath(import.meta.url)) prepare()
