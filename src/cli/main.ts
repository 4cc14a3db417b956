#!/usr/bin/env node
/** npx pg-membership: run.ts, in this process. */
import process from 'node:process'
import { run } from './run.js'

// It is no failure if the program that reads our output stops early, as in `| head -1`.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') process.exitCode = 1
})

const { exitCode, stdout, stderr } = await run(process.argv.slice(2), process.env)
process.stdout.write(stdout)
process.stderr.write(stderr)
process.exitCode = exitCode
