-- Access: only grants decide who may read and who may call (promise 15). This comes last, for all that is above.

-- Some hosts switch row level security on by themselves. Without a policy, each query of a reader would then find
-- nothing, without an error. A policy goes when its table goes: there is nothing to undo.
create policy by_grants_alone on :"schema".clusters using (true) with check (true);
create policy by_grants_alone on :"schema".members using (true) with check (true);
create policy by_grants_alone on :"schema".events using (true) with check (true);
create policy by_grants_alone on :"schema".sweeps using (true) with check (true);
create policy by_grants_alone on :"schema".held_heartbeats using (true) with check (true);
create policy by_grants_alone on :"schema".evictions using (true) with check (true);
create policy by_grants_alone on :"schema".retention using (true) with check (true);
create policy by_grants_alone on :"schema".members_channels using (true) with check (true);
create policy by_grants_alone on :"schema".claims using (true) with check (true);
create policy by_grants_alone on :"schema".nonces using (true) with check (true);

-- PostgreSQL lets everybody execute a new function, and use a new domain. Default privileges (alter default privileges),
-- an everyday setting, may have given anything else to anybody. So all that is made is taken back from everybody but
-- the owner. What roles of applications need is granted afterwards, by grants/reader.sql, grants/member.sql and
-- grants/operator.sql. A later migration does this for what it makes, and for nothing else.
set pgmembership.schema = :"schema";
do $access$
declare
  path constant pg_catalog.text := pg_catalog.current_setting('search_path');
  given pg_catalog.record;
begin
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  for given in
    select distinct o.kind, o.name, case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as grantee
    from pg_namespace n cross join lateral (
      select case relkind when 'S' then 'sequence' else 'table' end as kind, oid::regclass::text as name,
        relowner as owner, relacl as acl
      from pg_class where relnamespace = n.oid and relkind in ('r', 'v', 'S')
      union all
      select 'routine', oid::regprocedure::text, proowner, coalesce(proacl, acldefault('f', proowner))
      from pg_proc where pronamespace = n.oid
      union all
      select 'type', oid::regtype::text, typowner, coalesce(typacl, acldefault('T', typowner))
      from pg_type where typnamespace = n.oid and typtype = 'd'
    ) o cross join lateral aclexplode(o.acl) a
    where n.nspname = current_setting('pgmembership.schema') and a.grantee <> o.owner
  loop
    execute format('revoke all on %s %s from %s cascade', given.kind, given.name, given.grantee);
  end loop;
  perform set_config('search_path', path, true);
end
$access$;
reset pgmembership.schema;
