/** Where this is, which cluster is shown, at which time, and whether what is shown is fresh. */
import { inOneLine } from '../src/cli/visible.js'
import type { Pulse } from '../src/web/answers.js'
import type { Asked, AskError } from './asking.js'
import { age, localTime, utc } from './time.js'
import type { ChangeView, View } from './view.js'

export interface HeaderProps {
  readonly view: View
  readonly changeView: ChangeView
  readonly nowMs: number | undefined
  readonly pulse: Asked<Pulse>
  readonly error: AskError | undefined
}

export function Header({ view, changeView, nowMs, pulse, error }: HeaderProps) {
  const { answer } = pulse
  const clusters = answer?.clusters ?? []
  const isListed = clusters.some(({ name }) => name === view.cluster)
  const total = clusters.reduce((sum, { members }) => sum + members, 0)
  return (
    <header>
      <div class="bar">
        <h1>
          <img src="icon.svg" alt="" width="20" height="20" /> pg-membership
        </h1>
        {answer && (
          <span class="muted where" title="The database, and the schema in it">
            {inOneLine(answer.database)} / {inOneLine(answer.schema)}
          </span>
        )}
        <label class="cluster">
          <span aria-hidden="true">Cluster</span>
          <select
            aria-label="Cluster"
            value={view.cluster ?? ''}
            onChange={({ currentTarget }) =>
              changeView({ cluster: currentTarget.value === '' ? undefined : currentTarget.value })
            }
          >
            <option value="">All clusters ({total})</option>
            {view.cluster !== undefined && !isListed && (
              <option value={view.cluster}>{inOneLine(view.cluster)} (not there)</option>
            )}
            {clusters.map(({ name, members }) => (
              <option key={name} value={name}>
                {inOneLine(name)} ({members})
              </option>
            ))}
            {answer?.moreClusters && <option disabled>and more, which are not listed</option>}
          </select>
        </label>
        <Status {...{ view, changeView, nowMs, error }} isAsked={answer !== undefined} />
      </div>
      {error && <Trouble error={error} hasOld={answer !== undefined} />}
    </header>
  )
}

interface StatusProps extends Pick<HeaderProps, 'view' | 'changeView' | 'nowMs' | 'error'> {
  readonly isAsked: boolean
}

function Status({ view: { atMs }, changeView, nowMs, error, isAsked }: StatusProps) {
  return (
    <div class="status">
      <span role="status" class={error ? 'state lost' : atMs === undefined ? 'state live' : 'state past'}>
        {error
          ? 'Not connected'
          : atMs === undefined
            ? isAsked
              ? 'Live'
              : 'Connecting'
            : `As of ${localTime(atMs, nowMs ?? atMs)}`}
      </span>
      {atMs !== undefined && (
        <>
          <span class="muted" title={utc(atMs)}>
            {age((nowMs ?? atMs) - atMs)} ago
          </span>
          <button
            type="button"
            class="primary"
            onClick={() => changeView({ atMs: undefined, endMs: undefined })}
          >
            Back to now
          </button>
        </>
      )}
    </div>
  )
}

interface TroubleProps {
  readonly error: AskError
  readonly hasOld: boolean
}

function Trouble({ error, hasOld }: TroubleProps) {
  return (
    <div class="trouble" role="alert">
      {inOneLine(error.message)}. {hasOld && 'What is shown below is what was last heard. '}
      This page tries again by itself.
    </div>
  )
}
