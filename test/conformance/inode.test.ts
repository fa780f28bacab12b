import { inodes } from './cases/inode.js'
import { runCases } from './run.js'

await runCases('inode', inodes)
