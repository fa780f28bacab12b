import { links } from './cases/link.js'
import { runCases } from './run.js'

await runCases('link', links)
