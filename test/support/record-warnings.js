/** Loaded into every process that a test starts: notes what Node warns of, in the file that this module's URL names. */
import { appendFileSync } from 'node:fs'

const into = new URL(import.meta.url).searchParams.get('into') ?? ''
const program = process.argv[1] ?? process.execArgv.join(' ')

process.on('warning', (warning) => {
  appendFileSync(into, `${program}: ${warning.stack ?? String(warning)}\n`)
})
