/**
 * Writes dist/man/*.1, the man pages of the package. Started by prepare.js. `npm install` links those that package.json lists
 * under "man", and takes no pattern there: `node .ci/man.js --list` brings that list up to date.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createProgram } from '../dist/src/cli/main.js'
import { manPages } from '../dist/src/cli/man-pages.js'

const directory = new URL('../dist/man/', import.meta.url)
rmSync(directory, { recursive: true, force: true })
mkdirSync(directory, { recursive: true })
const pages = manPages(await createProgram('all'))
// lamina.1, which says that they are there, is the first of them: it goes last.
for (const { file, text } of pages.toReversed()) writeFileSync(new URL(file, directory), text)

if (process.argv.includes('--list')) {
  const path = new URL('../package.json', import.meta.url)
  const about = JSON.parse(readFileSync(path, 'utf8'))
  about.man = pages.map(({ file }) => `dist/man/${file}`).sort()
  writeFileSync(path, `${JSON.stringify(about, undefined, 2)}\n`)
}
