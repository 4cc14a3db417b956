#!/usr/bin/env node
/** npx pg-membership */
import process from 'node:process'
import { runCommand } from './run.js'

// It is no failure if the program that reads our output stops early, as in `| head -1`.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') process.exitCode = 1
})

process.exitCode = await runCommand(process.argv.slice(2), process)
