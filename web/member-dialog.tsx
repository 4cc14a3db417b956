/** All about one registration. */
import { useEffect, useRef } from 'preact/hooks'
import { inOneLine } from '../src/cli/visible.js'
import type { Data, MemberRow } from '../src/web/answers.js'
import { path, useAnswer } from './asking.js'
import { WholeData } from './data.js'
import { age, Moment } from './time.js'

export interface MemberDialogProps {
  readonly member: MemberRow
  readonly atMs: number | undefined
  readonly nowMs: number
  readonly onClose: () => void
}

export function MemberDialog({ member, atMs, nowMs, onClose }: MemberDialogProps) {
  const dialog = useRef<HTMLDialogElement>(null)
  useEffect(() => dialog.current?.showModal(), [])
  const { cluster, id, token } = member
  const { answer, error } = useAnswer<Data>(path('data', { cluster, id, token, at: atMs }))
  return (
    <dialog
      ref={dialog}
      aria-labelledby="member-title"
      onClose={onClose}
      onClick={({ target, currentTarget }) => target === currentTarget && currentTarget.close()}
    >
      <form method="dialog" class="section-bar">
        <h2 id="member-title">Member</h2>
        <button type="submit">Close</button>
      </form>
      <dl>
        <dt>Id</dt>
        <dd class="id">{id}</dd>
        <dt>Cluster</dt>
        <dd>{inOneLine(cluster)}</dd>
        <dt>Token</dt>
        <dd>{token}</dd>
        <dt>Registered</dt>
        <dd>
          <Moment ms={member.registeredAtMs} nowMs={nowMs} />
        </dd>
        {member.ttlMs !== null && (
          <>
            <dt>Ttl</dt>
            <dd>{age(member.ttlMs)}</dd>
          </>
        )}
        {member.session !== null && (
          <>
            <dt>Session</dt>
            <dd>{inOneLine(member.session)}</dd>
          </>
        )}
        <dt>Data</dt>
        <dd class="muted">
          {typeof answer?.data !== 'string' ? '' : `${answer.data.length.toLocaleString()} characters`}
        </dd>
      </dl>
      {error && <p class="empty">{inOneLine(error.message)}</p>}
      {answer?.data === null && <p class="empty">The log has no data of this member at that time.</p>}
      {typeof answer?.data === 'string' && <WholeData text={answer.data} />}
    </dialog>
  )
}
