'use strict'
/**
 * Starts a compiled program. From its bundle (.ci/bundle.js), with the code that V8 made of it at an earlier start, where there is
 * one and nothing is newer; else module by module. CommonJS, since Node sets up its loader of ES modules only when needed.
 *
 * Compiled code is kept in dist/.cache, one file a command and Node, since it has the functions that the first run called.
 * It is taken only where nobody may write who may not write in this package. V8 refuses what another version or other flags made, but
 * believes what is damaged, so that there is a sum behind it (crc32: Node 20.15).
 */
const {
  closeSync,
  constants: { O_DIRECTORY },
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  statSync,
  unlinkSync,
  writeSync,
} = require('node:fs')
const module_ = require('node:module')
const { dirname, join } = require('node:path')
const vm = require('node:vm')
const { crc32 } = require('node:zlib')

const dist = join(__dirname, '../dist')
const cache = join(dist, '.cache')
const age = path => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0

/** Commands of two words. */
const GROUPS = new Set(['container', 'image', 'layer', 'system', 'volume'])

/** A part of a file's name: the command's words, never what a user may choose freely. */
function commandName(name, [first = '', second = '']) {
  if (name !== 'cli/main') return name.replace('/', '-')
  const words = GROUPS.has(first) ? [first, second] : [first]
  return words.every(word => /^[a-z]{1,16}$/.test(word)) ? words.join('-') : undefined
}

/** The exports of dist/src/NAME.js. */
exports.load = async function load(name) {
  // npm packages: Node 22 and later keep compiled code by themselves, in a directory that is as the umask says.
  if (name === 'cli/main' && (process.umask() & 0o002) !== 0) module_.enableCompileCache?.(cache)
  const command = commandName(name, process.argv.slice(2))
  const [file] = [`${name}.${command}`, name]
    .map(bundle => join(dist, 'src', `${bundle}.bundle.cjs`))
    .filter(bundle => age(bundle) > 0)
  if (file === undefined || age(file) < age(join(dist, '.compiled'))) return import(`../dist/src/${name}.js`)
  const source = readFileSync(file, 'latin1')
  const digest = /^\/\/ ([0-9a-f]{64})\n/.exec(source.slice(0, 80))?.[1]
  const kept =
    command === undefined || digest === undefined || crc32 === undefined
      ? undefined
      : `${digest.slice(0, 32)}-${process.version}-${process.arch}-${command}`
  const cachedData = kept === undefined ? undefined : readWhole(kept)
  const script = new vm.Script(module_.wrap(source), {
    filename: file,
    ...(cachedData === undefined ? {} : { cachedData }),
  })
  const loaded = { exports: {} }
  script.runInThisContext()(loaded.exports, module_.createRequire(file), loaded, file, dirname(file))
  if (kept !== undefined && (cachedData === undefined || script.cachedDataRejected)) keepLater(kept, script)
  return loaded.exports
}

/** The code, or undefined where there is none that is whole and can be trusted. */
function readWhole(name) {
  try {
    const bytes = readFileSync(join(cache, name))
    const code = bytes.subarray(0, -4)
    return bytes.length > 4 && isOurs() && crc32(code) === bytes.readUInt32LE(code.length) ? code : undefined
  } catch {
    return undefined
  }
}

/** Whether nobody may write in the cache who may not write in the package. */
function isOurs() {
  const [ours, there] = [statSync(dist), statSync(cache)]
  const writers = there.mode & 0o022 & ~(there.gid === ours.gid ? ours.mode : 0)
  return writers === 0 && [ours.uid, process.geteuid(), 0].includes(there.uid)
}

/** Does what `keepLater` left to do. */
let keepNow = () => undefined

/** A program that goes on says so when it has called what it calls at a start. V8 forgets code that is not called again. */
exports.started = () => keepNow()

/** When the program has started, or ends well. */
function keepLater(name, script) {
  let directory
  try {
    mkdirSync(cache, { recursive: true, mode: 0o755 })
    if (!isOurs()) return
    // By descriptor from here on: what a daemon mounts may cover the package, and no daemon touches its own mount.
    directory = openSync(cache, O_DIRECTORY)
  } catch {
    return
  }
  keepNow = () => {
    keepNow = () => undefined
    keep(`/proc/self/fd/${directory}/${name}`, script)
    closeSync(directory)
  }
  process.once('exit', code => {
    if (code === 0) keepNow()
  })
}

/** Never fails: a start without it is slower, no more. */
function keep(path, script) {
  const temporary = `${path}.${process.pid}`
  try {
    const fd = openSync(temporary, 'wx', 0o644)
    try {
      const code = script.createCachedData()
      const sum = Buffer.alloc(4)
      sum.writeUInt32LE(crc32(code))
      if (writeSync(fd, code) + writeSync(fd, sum) !== code.length + 4) throw new Error('short write')
      renameSync(temporary, path)
    } catch {
      unlinkSync(temporary)
    } finally {
      closeSync(fd)
    }
  } catch {
    // A package that others own, a full disk.
  }
}
