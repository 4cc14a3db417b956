-- Assembled from schema/ by `npm run schema`: change it there, not here.

-- From here to the last statement, names are PostgreSQL's own, whatever search_path is. In a transaction nothing of
-- this outlives it.
do $$ begin
  perform pg_catalog.set_config('pgmembership.transaction', pg_catalog.pg_current_xact_id()::pg_catalog.text, true);
end $$;
do $$ declare
  is_inside constant boolean := coalesce(pg_catalog.current_setting('pgmembership.transaction', true)
    operator(pg_catalog.=) pg_catalog.pg_current_xact_id()::pg_catalog.text, false);
begin
  perform pg_catalog.set_config('pgmembership.path', pg_catalog.current_setting('search_path'), is_inside);
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', is_inside);
end $$;

-- A reader sees who is a member and who was, and may sweep. It can change nothing and remove nobody who is alive.
-- psql -v schema=pgmembership -v role=auditor -f reader.sql

grant usage on schema :"schema" to :"role";
grant execute on function :"schema".schema_version() to :"role";

grant select on :"schema".clusters, :"schema".events to :"role";

grant select on :"schema".members to :"role";

grant execute on function :"schema".channel(text) to :"role";

grant select on :"schema".evictions to :"role";

grant select on :"schema".held_heartbeats to :"role";
grant execute on function :"schema".heard_at(uuid, bigint, timestamptz) to :"role";

grant select on :"schema".sweeps to :"role";
grant execute on function :"schema".sweep_overdue(text) to :"role";
grant execute on function
  :"schema".sweep(text), :"schema".sweep_as_owner(text), :"schema".sweep_idle(text[]) to :"role";

grant select on :"schema".retention to :"role";

grant execute on function :"schema".kept_past_ttl(text, timestamptz) to :"role";

grant select on :"schema".members_now, :"schema".stays, :"schema".changes to :"role";
grant execute on function
  :"schema".readable(bytea), :"schema".data_at(text, uuid, bigint, timestamptz),
  :"schema".members_at(text, timestamptz), :"schema".stays_at(text, timestamptz),
  :"schema".stays_between(text, timestamptz, timestamptz, bigint) to :"role";

grant select on :"schema".claims, :"schema".claims_now to :"role";

grant select on :"schema".nonces, :"schema".nonces_now to :"role";

do $$ begin
  perform pg_catalog.set_config('search_path', pg_catalog.current_setting('pgmembership.path'), coalesce(
    pg_catalog.current_setting('pgmembership.transaction', true)
      operator(pg_catalog.=) pg_catalog.pg_current_xact_id()::pg_catalog.text, false));
end $$;
