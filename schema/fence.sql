-- The fence: how an application's transaction is made to depend on a registration.
--
-- The transaction goes on only if the registration is current, and nobody can remove the registration until the
-- transaction has ended (promises 13 and 16). Heartbeats and changes of data go on meanwhile.

-- Raises MB001 unless the registration is current and not expired, and keeps it from being removed until the
-- transaction ends.
create function :"schema".fence(member uuid, registration bigint) returns void
language plpgsql security definer
set search_path = :"schema", pg_temp
set timezone = 'UTC' -- Where a day has 24 hours.
set lock_timeout = '2s'
as $$
begin
  perform from members m
  where m.id = member and m.token = registration and m.heartbeat_at + m.ttl > clock_timestamp()
  for key share;
  if not found then
    raise exception 'registration % of member % is not current', registration, member
      using errcode = 'MB001', hint = 'Another process may have taken over: roll back.';
  end if;
end
$$;

-- For drivers that send text. Where both parameters have an unknown type, PostgreSQL chooses (text, text).
create function :"schema".fence(member text, registration text) returns void
language sql set search_path = :"schema", pg_temp
as $$ select fence(member::uuid, registration::bigint) $$;
create function :"schema".fence(member text, registration bigint) returns void
language sql set search_path = :"schema", pg_temp
as $$ select fence(member::uuid, registration) $$;
create function :"schema".fence(member uuid, registration text) returns void
language sql set search_path = :"schema", pg_temp
as $$ select fence(member, registration::bigint) $$;

-- ==== down

drop function :"schema".fence(uuid, text);
drop function :"schema".fence(text, bigint);
drop function :"schema".fence(text, text);
drop function :"schema".fence(uuid, bigint);

-- ==== grants: member

grant execute on function
  :"schema".fence(uuid, bigint), :"schema".fence(text, text), :"schema".fence(text, bigint),
  :"schema".fence(uuid, text) to :"role";
