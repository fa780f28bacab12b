#!/usr/bin/env node
import { main } from '../dist/src/cli/fuse-lamina.js'

process.exitCode = await main()
