/** The public API. */
export * from './manager/index.js'
