-- pg-membership, version 1 of the schema.
--
-- `pg-membership migrate` runs it, or psql: psql -1 -v schema=pgmembership -f 0001_membership.up.sql
--
-- This part is the schema itself, its version, and the rules that hold for every function and table in it.
--
-- psql replaces a colon and a name in double quotes by a variable, in quotes. It does not do so between $$ and $$:
-- therefore each function sets its own search_path, and writes its tables without a schema.
--
-- What is made here is bound for ever to what search_path finds now: types, and the functions and operators in checks,
-- defaults, views and bodies without a text. So the first statements of each file leave only PostgreSQL's own names in
-- the path of whoever runs it, and the last statement puts that path back.
--
-- Locks are taken in one order everywhere: rows of members by id, then the row of clusters. A deadlock is still
-- possible (an UPDATE of many rows that somebody types can cause one). The library then tries again.
--
-- A definer function (security definer) runs with the rights of the schema's owner. Its caller must not be able
-- to change what it does. So it sets search_path and every setting that matters, checks its arguments, and runs
-- nothing that the caller has queued (deferred triggers).
--
-- Rows to update are named by an array (`id = any (array(select ...))`), not by a subquery: the planner may join a
-- subquery by a nested loop, because its statistics are from a time when the table was empty. A thousand members
-- are then a million steps.
--
-- Functions that are called all the time also set how they are planned. Without plan_cache_mode a statement with
-- an array is planned again at each call. A generic plan does not know how many rows there are: it is told to use
-- the indexes, which is right for one row and for thousands. The log was empty when the planner looked at it, so
-- its searches use a row comparison, `(e.member, e.at) >= (...)`: only one index begins with these columns.

-- Makes the schema, if it is not there. Code in a schema runs as whoever calls it, and what it calls is looked for in the
-- schema. So nothing is made in a schema that another role owns, or may create in, and nothing that is there is called
-- before this is known. psql replaces no variable inside of the block: a setting of our own tells the name.
set pgmembership.schema = :"schema";
do $owner$
declare
  schema constant pg_catalog.text := pg_catalog.current_setting('pgmembership.schema');
  path constant pg_catalog.text := pg_catalog.current_setting('search_path');
  place pg_catalog.record;
  wrong pg_catalog.record;
begin
  -- From here on a name is PostgreSQL's own, whatever stands in the path of the installer.
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  if not exists (select from pg_namespace where nspname = schema) then
    execute format('create schema %I', schema);
    -- Default privileges may have given it to others already.
    for wrong in
      select distinct coalesce(g.rolname, 'public') as who
      from pg_namespace n cross join aclexplode(n.nspacl) a left join pg_roles g on g.oid = a.grantee
      where n.nspname = schema and a.grantee <> n.nspowner
    loop
      execute format('revoke all on schema %I from %I cascade', schema, wrong.who);
    end loop;
  end if;
  select n.oid, case when r.rolname = 'pg_database_owner' then d.datdba else n.nspowner end as owner into place
  from pg_namespace n join pg_roles r on r.oid = n.nspowner join pg_database d on d.datname = current_database()
  where n.nspname = schema;
  if pg_get_userbyid(place.owner) <> current_user then
    raise exception 'schema % is owned by role %, not by %', schema, pg_get_userbyid(place.owner), current_user
      using errcode = 'insufficient_privilege',
        hint = 'Choose another name; or run this as that role (set role), or give it to this one (alter schema ... owner to ...).';
  end if;
  select coalesce(g.rolname, 'public') as who into wrong
  from pg_namespace n cross join aclexplode(n.nspacl) a left join pg_roles g on g.oid = a.grantee
  where n.oid = place.oid and a.privilege_type = 'CREATE' and a.grantee not in (n.nspowner, place.owner)
    and not coalesce(g.rolsuper, false);
  if wrong.who is not null then
    raise exception 'role % may create objects in schema %', wrong.who, schema
      using errcode = 'insufficient_privilege',
        hint = format('Choose another name, or run: revoke create on schema %I from %I', schema, wrong.who);
  end if;
  select pg_describe_object(o.kind, o.oid, 0) as what, pg_get_userbyid(o.owner) as who into wrong
  from (
    select 'pg_class'::regclass as kind, oid, relowner as owner from pg_class where relnamespace = place.oid
    union all select 'pg_proc'::regclass, oid, proowner from pg_proc where pronamespace = place.oid
    union all select 'pg_type'::regclass, oid, typowner from pg_type where typnamespace = place.oid
    union all select 'pg_operator'::regclass, oid, oprowner from pg_operator where oprnamespace = place.oid
  ) o
  where o.owner <> place.owner;
  if wrong.what is not null then
    raise exception 'schema % has an object of role %: %', schema, wrong.who, wrong.what
      using errcode = 'insufficient_privilege', hint = 'Choose another name, or drop what is not yours.';
  end if;
  perform set_config('search_path', path, true);
end
$owner$;
reset pgmembership.schema;

-- Code of version v works with a schema when compatible_from <= v <= version.
create function :"schema".schema_version(out version integer, out compatible_from integer)
language sql immutable parallel safe
set search_path = :"schema", pg_temp
as $$ select 1, 1 $$;

-- ==== shared: own_names

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

-- ==== shared: own_names_end

do $$ begin
  perform pg_catalog.set_config('search_path', pg_catalog.current_setting('pgmembership.path'), coalesce(
    pg_catalog.current_setting('pgmembership.transaction', true)
      operator(pg_catalog.=) pg_catalog.pg_current_xact_id()::pg_catalog.text, false));
end $$;

-- ==== shared: planner_settings

set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_memoize = off
set jit = off

-- ==== down

drop function :"schema".schema_version();

-- ==== grants: reader

-- A reader sees who is a member and who was, and may sweep. It can change nothing and remove nobody who is alive.
-- psql -v schema=pgmembership -v role=auditor -f reader.sql

grant usage on schema :"schema" to :"role";
grant execute on function :"schema".schema_version() to :"role";

-- ==== grants: member

-- A member takes part: it may do all that a reader may, and call the functions that register, renew, change, leave
-- and fence. It touches no table but through them. Members of a schema trust one another.
-- psql -v schema=pgmembership -v role=app -f member.sql   (after reader.sql for the same role)
