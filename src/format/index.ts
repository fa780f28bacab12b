/** What is on disk, in every dialect, in one place. See FORMAT.md. */
export * from './xattr-names.js'
export * from './whiteout.js'
export * from './opaque.js'
export * from './origin.js'
export * from './redirect.js'
export * from './metacopy.js'
export * from './override-stat.js'
export * from './diff.js'
