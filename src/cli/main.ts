#!/usr/bin/env node
/** npx pg-membership */
import process from 'node:process'
import { runCommand } from './run.js'

const ended = new AbortController()
// It is no failure if the program that reads our output stops early, as in `| head -1`.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') process.exitCode = 1
  ended.abort()
})

process.exitCode = await runCommand(process.argv.slice(2), {
  // Opened only by who asks something: an open stdin keeps the process alive.
  get stdin() {
    return process.stdin
  },
  stdout: process.stdout,
  stderr: process.stderr,
  env: process.env,
  signal: ended.signal,
})
