/** Typed syscalls: `import * as sys from '../sys/index.js'`. Names and paths are byte strings (latin1). */
export * from './attr.js'
export * from './constants.js'
export * from './cred.js'
export * from './dir.js'
export * from './file.js'
export * from './name.js'
export * from './xattr.js'
