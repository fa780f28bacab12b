#!/usr/bin/env node
'use strict'
require('./load.js')
  .load('cli/main')
  .then(({ main }) => main())
  .then(code => {
    process.exitCode = code
  })
