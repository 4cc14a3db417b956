-- pg-membership, version 1 of the schema.
--
-- `pg-membership migrate` runs it, or psql: psql -1 -v schema=pgmembership -f 0001_membership.up.sql
--
-- This part is the schema itself, its version, and the rules that hold for every function and table in it.
--
-- psql replaces a colon and a name in double quotes by a variable, in quotes. It does not do so between $$ and $$:
-- therefore each function sets its own search_path, and writes its tables without a schema.
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

create schema if not exists :"schema";

-- Code of version v works with a schema when compatible_from <= v <= version.
create function :"schema".schema_version(out version integer, out compatible_from integer)
language sql immutable parallel safe
set search_path = :"schema", pg_temp
as $$ select 1, 1 $$;

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
