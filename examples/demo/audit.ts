/**
 * What the database can tell afterwards, in plain SQL over the views that the migration made for people.
 * Their names are found through the search_path; elsewhere you would write `pgmembership.stays`.
 */

/** Who was a member, for how long, and why it left. */
export const staysSql = `
select data::json->>'name' as who, right(member::text, 6) as member, token,
       to_char(joined_at, 'HH24:MI:SS') as joined, round(extract(epoch from stayed), 1) as seconds,
       coalesce(reason, '(still here)') as why_it_ended
from stays where cluster = 'demo' order by token`

/** What happened: each change with its revision, in the order of commits. None is missing. */
export const changesSql = `
select revision, to_char(at, 'HH24:MI:SS.MS') as at, kind, reason,
       right(member::text, 6) as member, token, data::json->>'state' as state
from changes where cluster = 'demo' order by revision`

/** Why a member left, the last time it did. */
export const reasonSql = `
select reason from changes
where cluster = 'demo' and member = $1 and kind = 'left' order by revision desc limit 1`
