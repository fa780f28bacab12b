#!/usr/bin/env node
import module from 'node:module'
import { fileURLToPath } from 'node:url'

// Node 22 and later keep compiled code between runs; in this package, where only its owner can write.
module.enableCompileCache?.(fileURLToPath(new URL('../dist/.cache', import.meta.url)))
const { main } = await import('../dist/src/cli/fuse-lamina.js')
process.exitCode = await main()
