#!/usr/bin/env node
'use strict'
require('./load.js')
  .load('cli/fuse-lamina')
  .then(({ main }) => main())
  .then(code => {
    process.exitCode = code
  })
