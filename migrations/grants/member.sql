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

-- A member takes part: it may do all that a reader may, and call the functions that register, renew, change, leave
-- and fence. It touches no table but through them. Members of a schema trust one another.
-- psql -v schema=pgmembership -v role=app -f member.sql   (after reader.sql for the same role)

grant execute on function :"schema".members_channel(text) to :"role";

grant execute on function
  :"schema".register(text, uuid[], bytea[], bigint[], interval, interval, text, integer, timestamptz),
  :"schema".register_as_owner(
    text, uuid[], bytea[], bigint[], interval, interval, text, integer, timestamptz, boolean) to :"role";

grant execute on function :"schema".set_data(text, uuid[], bigint[], bytea[]) to :"role";

grant execute on function
  :"schema".deregister(text, uuid[], bigint[]), :"schema".deregister_as_owner(text, uuid[], bigint[]) to :"role";

grant execute on function :"schema".heartbeat(text, uuid[], bigint[], text, integer) to :"role";

grant execute on function
  :"schema".fence(uuid, bigint), :"schema".fence(text, text), :"schema".fence(text, bigint),
  :"schema".fence(uuid, text) to :"role";

grant execute on function
  :"schema".claim(text, text, uuid, bigint, text[]), :"schema".release(text, text, uuid, bigint, text[]),
  :"schema".fence_claims(text, text, uuid, bigint, text[]) to :"role";

grant execute on function
  :"schema".stock_nonces(text, text, text[]),
  :"schema".take_nonces(text, text, uuid, bigint, uuid, uuid[], integer),
  :"schema".use_nonce(text, text, uuid, bigint, uuid, text),
  :"schema".return_nonces(text, text, uuid, bigint, text[], uuid[], uuid[]) to :"role";

do $$ begin
  perform pg_catalog.set_config('search_path', pg_catalog.current_setting('pgmembership.path'), coalesce(
    pg_catalog.current_setting('pgmembership.transaction', true)
      operator(pg_catalog.=) pg_catalog.pg_current_xact_id()::pg_catalog.text, false));
end $$;
