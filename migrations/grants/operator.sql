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

-- An operator may do all that a reader may, and remove members. It cannot register or rewrite anything.
-- psql -v schema=pgmembership -v role=ops -f operator.sql   (after reader.sql for the same role)

grant execute on function
  :"schema".evict(text, uuid, text, interval), :"schema".drain(text, uuid, text, interval),
  :"schema".allow(text, uuid) to :"role";

do $$ begin
  perform pg_catalog.set_config('search_path', pg_catalog.current_setting('pgmembership.path'), coalesce(
    pg_catalog.current_setting('pgmembership.transaction', true)
      operator(pg_catalog.=) pg_catalog.pg_current_xact_id()::pg_catalog.text, false));
end $$;
