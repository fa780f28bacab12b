#!/usr/bin/env node
import { statSync } from 'node:fs'
import module from 'node:module'
import { fileURLToPath } from 'node:url'

const path = name => fileURLToPath(new URL(`../dist/${name}`, import.meta.url))
const age = name => statSync(path(name), { throwIfNoEntry: false })?.mtimeMs ?? 0

// Node 22 and later keep compiled code between runs; in this package, where only its owner can write.
module.enableCompileCache?.(path('.cache'))
// The same in few files, unless they are older than what the compiler wrote: they load in half the time.
const bundled = age('src/cli/bundle/main.js')
const { main } = await import(
  bundled > 0 && bundled >= age('.tsbuildinfo') ? '../dist/src/cli/bundle/main.js' : '../dist/src/cli/main.js'
)
process.exitCode = await main()
