/** What every program has that runs as a worker: it does what its parent says, and tells what goes wrong. */

/** @param {object} telling */
export function tell(telling) {
  if (process.connected) process.send?.(telling)
}

/**
 * Answers each request with the command of its name.
 * @param {object} commands
 */
export function serve(commands) {
  process.on('message', (message) => {
    const { id, command, parameters } = /** @type {import('./worker.js').Request} */ (message)
    const run = /** @type {Record<string, (parameters: unknown) => Promise<unknown>>} */ (commands)[command]
    run?.(parameters).then(
      (result) => tell({ kind: 'answer', id, result }),
      (/** @type {unknown} */ error) => tell({ kind: 'answer', id, error: String(error) }),
    )
  })
  // Nobody is left to say what to do.
  process.on('disconnect', () => process.exit())
  process.on('uncaughtException', (error) => tell({ kind: 'uncaught', message: String(error.stack) }))
  process.on('unhandledRejection', (reason) =>
    tell({ kind: 'uncaught', message: `unhandled: ${String(reason)}` }),
  )
  process.on('warning', (warning) => tell({ kind: 'uncaught', message: String(warning.stack) }))
  tell({ kind: 'ready' })
}
