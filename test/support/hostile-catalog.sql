-- A stranger's shadow of all that PostgreSQL has. A statement that names a function, an operator, a type, a relation or a
-- collation without its schema finds this one first, with the very same arguments: also a statement that nobody has
-- thought of yet. What is run notes who ran it, and answers as PostgreSQL's own, so that the rest goes on.
--
-- What cannot be written in PL/pgSQL fails instead: functions that take "any", and window functions. Aggregates are plain
-- functions here, which answer null or fail.

create schema evil;
grant usage on schema evil to public;
create table evil.seen (
  what text not null, caller name not null default current_user, session name not null default session_user,
  application text not null default current_setting('application_name'), statement text not null default current_query()
);
grant all on evil.seen to public;

create function evil.ran(what text) returns boolean language plpgsql
as $$
begin
  if pg_catalog.current_setting('transaction_read_only') operator(pg_catalog.=) 'on' then
    raise exception 'a stranger''s % ran as %', what, current_user;
  end if;
  insert into evil.seen (what) values (what);
  return true;
end
$$;

do $shadows$
declare
  one record;
  body text;
  result text;
begin
  set local search_path = pg_catalog;
  set local check_function_bodies = off;
  for one in
    select p.oid, p.proname, p.prokind, p.proretset, p.pronargs,
      pg_get_function_arguments(p.oid) as arguments, pg_get_function_result(p.oid) as result,
      p.prorettype = 'record'::regtype as is_record,
      case p.provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end as volatility,
      format('%s(%s)', p.proname, pg_get_function_identity_arguments(p.oid)) as what,
      p.provariadic <> 0 as is_variadic,
      '"any"'::regtype = any (p.proargtypes) or p.prokind = 'w' as is_beyond_sql
    from pg_proc p
    where p.pronamespace = 'pg_catalog'::regnamespace and not exists (
        select from pg_aggregate a where a.aggfnoid = p.oid and a.aggkind <> 'n'
      )
      -- What a statement cannot call: handlers, and the input and output of types.
      and not exists (
        select from pg_type t
        where t.oid = any (array_append(coalesce(p.proallargtypes, p.proargtypes::oid[]), p.prorettype)) and (
          t.typtype = 'p' and t.typname !~ '^(any.*|record|void)$' or t.typname = '_cstring'
            or t.typname = 'void' and t.oid = any (p.proargtypes)
        )
      )
  loop
    result := coalesce(one.result, 'void');
    if one.is_beyond_sql then
      -- trigger_in() refuses whatever it is given.
      execute format('create function evil.%I(%s) returns %s language internal as ''trigger_in''',
        one.proname, one.arguments, result);
      continue;
    end if;
    select string_agg(case when one.is_variadic and n = one.pronargs then 'variadic ' else '' end || '$' || n, ', ' order by n)
    into body from generate_series(1, one.pronargs) n;
    body := format('pg_catalog.%I(%s)', one.proname, body);
    body := case
      when one.prokind = 'a' then 'return null'
      when one.proretset then 'return query select * from ' || body
      when one.is_record or result = 'void' then 'return'
      else 'return ' || body
    end;
    execute format('create function evil.%I(%s) returns %s language plpgsql %s as %L',
      one.proname, one.arguments, result, one.volatility,
      format('begin perform evil.ran(%L); %s; end', one.what, body));
  end loop;

  for one in
    select o.oid, o.oprname, o.oprresult::regtype as result,
      case p.provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end as volatility,
      case when o.oprleft <> 0 then o.oprleft::regtype::text end as left, o.oprright::regtype::text as right
    from pg_operator o join pg_proc p on p.oid = o.oprcode
    where o.oprnamespace = 'pg_catalog'::regnamespace and o.oprright <> 0
  loop
    execute format('create function evil.operator_%s(%s) returns %s language plpgsql %s as %L', one.oid,
      concat_ws(', ', one.left, one.right), one.result, one.volatility,
      format('begin perform evil.ran(%L); return %s; end', concat_ws(' ', one.left, one.oprname, one.right),
        case when one.left is null then format('operator(pg_catalog.%s) $1', one.oprname)
        else format('$1 operator(pg_catalog.%s) $2', one.oprname) end));
    execute format('create operator evil.%s (function = evil.operator_%s%s, rightarg = %s)', one.oprname, one.oid,
      ', leftarg = ' || one.left, one.right);
  end loop;

  for one in
    select t.typname from pg_type t
    where t.typnamespace = 'pg_catalog'::regnamespace and t.typtype in ('b', 'r', 'm') and t.typname !~ '^_'
  loop
    execute format('create domain evil.%I as pg_catalog.%I check (evil.ran(%L))', one.typname, one.typname,
      'type ' || one.typname);
  end loop;

  for one in
    select c.relname, (
      -- A view may have no column of any type.
      select string_agg(format(case when format_type(a.atttypid, null) ~ '^(anyarray|pg_statistic)' then '%1$I::text as %1$I' else '%I' end,
        a.attname), ', ' order by a.attnum)
      from pg_attribute a where a.attrelid = c.oid and a.attnum > 0
    ) as columns
    from pg_class c where c.relnamespace = 'pg_catalog'::regnamespace and c.relkind in ('r', 'v')
  loop
    execute format('create view evil.%I as select %s from pg_catalog.%I where (select evil.ran(%L))', one.relname, one.columns,
      one.relname, 'relation ' || one.relname);
  end loop;
  grant select on all tables in schema evil to public;
end
$shadows$;

create collation evil."C" from pg_catalog."C";
create collation evil."POSIX" from pg_catalog."POSIX";
