'use strict'
/**
 * Starts a compiled program. From its bundle (.ci/bundle.js), with the code that V8 made of it at an earlier start, where there is
 * one and nothing is newer; else module by module. CommonJS, since Node sets up its loader of ES modules only when needed.
 *
 * Compiled code is kept in dist/.cache, one file a command and Node, since it has the functions that the first run called.
 * Only who may write in this package writes there. V8 refuses what another version or other flags made, but believes what is
 * damaged, so that there is a sum behind it (crc32: Node 20.15).
 */
const {
  closeSync,
  fsyncSync,
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
  // npm packages: Node 22 and later keep compiled code by themselves.
  module_.enableCompileCache?.(cache)
  const file = join(dist, 'src', `${name}.bundle.cjs`)
  const bundled = age(file)
  if (bundled === 0 || bundled < age(join(dist, '.tsbuildinfo'))) return import(`../dist/src/${name}.js`)
  const source = readFileSync(file, 'latin1')
  const command = commandName(name, process.argv.slice(2))
  const digest = /^\/\/ ([0-9a-f]{64})\n/.exec(source.slice(0, 80))?.[1]
  const kept =
    command === undefined || digest === undefined || crc32 === undefined
      ? undefined
      : join(cache, `${digest.slice(0, 32)}-${process.version}-${process.arch}-${command}`)
  const cachedData = kept === undefined ? undefined : readWhole(kept)
  const script = new vm.Script(module_.wrap(source), {
    filename: file,
    ...(cachedData === undefined ? {} : { cachedData }),
  })
  const loaded = { exports: {} }
  script.runInThisContext()(loaded.exports, module_.createRequire(file), loaded, file, dirname(file))
  if (kept !== undefined && (cachedData === undefined || script.cachedDataRejected)) {
    process.once('exit', code => {
      if (code === 0) keep(kept, script)
    })
  }
  return loaded.exports
}

/** The code, or undefined where there is none that is whole. */
function readWhole(path) {
  try {
    const bytes = readFileSync(path)
    const code = bytes.subarray(0, -4)
    return bytes.length > 4 && crc32(code) === bytes.readUInt32LE(code.length) ? code : undefined
  } catch {
    return undefined
  }
}

/** Never fails: a start without it is slower, no more. */
function keep(path, script) {
  const temporary = `${path}.${process.pid}`
  try {
    mkdirSync(cache, { recursive: true })
    const fd = openSync(temporary, 'wx', 0o644)
    try {
      const code = script.createCachedData()
      const sum = Buffer.alloc(4)
      sum.writeUInt32LE(crc32(code))
      if (writeSync(fd, code) + writeSync(fd, sum) !== code.length + 4) throw new Error('short write')
      fsyncSync(fd)
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
