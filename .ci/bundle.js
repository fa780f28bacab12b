/**
 * Puts the compiled files into few files, one for each program of bin/. Loading a hundred modules one by one takes Node longer than
 * most commands do (HACKING.md, "Start-up", has figures). Started by prepare.js.
 *
 * They are CommonJS, which alone can be given compiled code to start from on every Node (bin/load.js); a group of
 * commands in them is still evaluated only when it is asked for.
 */
import { build } from 'esbuild'
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { readFile, rename, rm, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const compiled = join(root, 'dist/src')
const require = createRequire(import.meta.url)

/** Modules find their neighbours (the addon, threads, package.json) from where they were, not from the bundle. */
const keepUrls = {
  name: 'keep-urls',
  setup({ onLoad }) {
    onLoad({ filter: /\.js$/ }, async ({ path }) => {
      if (!path.startsWith(`${compiled}/`)) return undefined
      // Every bundle is one directory below.
      const url = `new URL(${JSON.stringify(`../${relative(compiled, path)}`)}, BUNDLE_URL).href`
      return { contents: (await readFile(path, 'utf8')).replaceAll('import.meta.url', url), loader: 'js' }
    })
  },
}

/**
 * Modules of Node's that cost milliseconds to load and that most commands never call, loaded at the first use. Only such as
 * have what is used of them in every Node: the list of their exports is made here.
 */
const LAZY = ['node:child_process', 'node:crypto', 'node:net', 'node:v8', 'node:worker_threads']
const lazyBuiltins = {
  name: 'lazy-builtins',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: new RegExp(`^(${LAZY.join('|')})$`) }, ({ path, namespace }) =>
      namespace === 'lazy' ? { path, external: true } : { path, namespace: 'lazy' },
    )
    onLoad({ filter: /.*/, namespace: 'lazy' }, ({ path }) => ({
      contents: `for (const key of ${JSON.stringify(Object.keys(require(path)))})
        Object.defineProperty(exports, key, { enumerable: true, get: () => require(${JSON.stringify(path)})[key] })`,
    }))
  },
}

const { dependencies, optionalDependencies } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8'))
/** npm packages that are put in, with their licences; the others stay where they are. */
const INCLUDED = ['commander', 'node-gyp-build']

/** `lamina mount` alone, since a mount should be there fast: a tenth of the whole command line. */
const mountAlone = {
  name: 'mount-alone',
  setup({ onResolve }) {
    onResolve({ filter: /^\.\/commands\// }, ({ path }) =>
      path === './commands/mount.js' ? undefined : { path, external: true },
    )
  },
}

async function bundles(entryPoints, ...plugins) {
  const { outputFiles } = await build({
    bundle: true,
    platform: 'node',
    target: 'node20',
    logLevel: 'warning',
    format: 'cjs',
    external: Object.keys({ ...dependencies, ...optionalDependencies }).filter(
      name => !INCLUDED.includes(name),
    ),
    // import() of what is not in the bundle would need a loader; require() does.
    supported: { 'dynamic-import': false },
    // White space is a third of the text, and all of it is read at each start; names stay, for stacks.
    minifyWhitespace: true,
    lineLimit: 120,
    entryPoints: Object.fromEntries(
      Object.entries(entryPoints).map(([name, entry]) => [name, join(compiled, `${entry}.js`)]),
    ),
    outdir: compiled,
    outExtension: { '.js': '.bundle.cjs' },
    write: false,
    // A module may have a `require` of its own.
    banner: { js: "'use strict'; const BUNDLE_URL = require('node:url').pathToFileURL(__filename);" },
    plugins: [keepUrls, lazyBuiltins, ...plugins],
  })
  return outputFiles
}

const outputFiles = [
  ...(await bundles({
    'cli/main': 'cli/main',
    'cli/fuse-lamina': 'cli/fuse-lamina',
    'daemon/main': 'daemon/main',
  })),
  ...(await bundles({ 'cli/main.mount': 'cli/main' }, mountAlone)),
]
for (const { path, text } of outputFiles) {
  const licences = INCLUDED.filter(name => text.includes(`node_modules/${name}/`)).map(
    name =>
      `/* Contains ${name}:\n${readFileSync(join(dirname(require.resolve(name)), 'LICENSE'), 'utf8')}*/\n`,
  )
  // What esbuild leaves as it is (regular expressions): pure ASCII is read fastest, and is one byte a character in memory.
  const ascii = [text, ...licences]
    .join('')
    .replace(/[^\0-\x7f]/g, c => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`)
  // The first line tells one bundle from another: compiled code is kept by it.
  const digest = createHash('sha256').update(ascii).digest('hex')
  await writeFile(`${path}.new`, `// ${digest}\n${ascii}`)
  // A command may be starting now.
  await rename(`${path}.new`, path)
}
// Of builds before this one, and what was compiled from them.
await rm(join(compiled, 'daemon/main.bundle.js'), { force: true })
await rm(join(root, 'dist/.cache'), { recursive: true, force: true })
