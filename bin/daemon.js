'use strict'
// The process that serves one mount. Not for people: src/daemon/launch.ts starts it.
const { load, started } = require('./load.js')
load('daemon/main').then(({ main }) => main(started))
