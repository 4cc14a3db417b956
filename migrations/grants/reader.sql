-- A reader sees who is a member and who was, and may sweep: it can change nothing and evict nobody alive.
-- psql -v schema=pgmembership -v role=auditor -f reader.sql

grant usage on schema :"schema" to :"role";
grant select on
  :"schema".clusters, :"schema".members, :"schema".events, :"schema".sweeps,
  :"schema".members_now, :"schema".sessions, :"schema".changes
  to :"role";
grant execute on function
  :"schema".schema_version(),
  :"schema".channel(text),
  :"schema".readable(bytea),
  :"schema".sweep(text),
  :"schema".sweep_idle(text[]),
  :"schema".sweep_as_owner(text),
  :"schema".sweep_overdue(text),
  :"schema".data_at(text, uuid, bigint, timestamptz),
  :"schema".members_at(text, timestamptz),
  :"schema".stays_at(text, timestamptz),
  :"schema".sessions_between(text, timestamptz, timestamptz, bigint)
  to :"role";
