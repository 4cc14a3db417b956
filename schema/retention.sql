-- Retention: how much of the log is kept.
--
-- Trimming changes no answer about the time that is kept: of each registration it keeps the event that says what the
-- member carried when that time begins. A reader whose events were trimmed reads all members instead, and a change
-- feed whose position was trimmed is told so. The present is never trimmed.
--
-- The log is also a memory: register() looks there for departures since an attempt began, which is at most 10 seconds ago.
-- So a departure is kept for 20 seconds, whatever the owner says. (One that seems to be in the future was written before
-- the clock went back, and register() does not count it.)
--
-- Evictions are trimmed like events, when they have ended and the registration that they ended has gone.
--
-- The owner trims by hand, with trim_events(), or sets a retention, which sweeps keep bit by bit.

-- One row: the retention of all clusters of this schema. No row: nothing is trimmed but by hand.
create table :"schema".retention (
  one     boolean primary key default true check (one),
  age     interval,
  changes bigint
);
comment on column :"schema".retention.age is 'Older events may be trimmed; null: their age does not matter.';
comment on column :"schema".retention.changes is
  'All but this many of the newest changes of each cluster may be trimmed; null: their number does not matter.';

-- Deletes events that are older than older_than, except those that say what a member carried at that time. Returns how
-- many it deleted.
create function :"schema".trim_events(older_than interval) returns bigint
language plpgsql
set search_path = :"schema", pg_temp
set lock_timeout = '5s'
set timezone = 'UTC' -- Where a day has 24 hours.
:planner_settings
as $$
declare
  moment constant timestamptz := clock_timestamp();
  cutoff constant timestamptz := moment - older_than;
  trimmed bigint;
begin
  if coalesce(cutoff > moment, true) then
    raise exception 'older_than must not be negative or null' using errcode = 'invalid_parameter_value',
      hint = 'Say how much of the past to keep, for example trim_events(''90 days'').';
  end if;
  delete from events e
  where e.at < cutoff and (e.kind = 'left' and e.at < moment - interval '20 seconds' or exists (
    -- By the index of the member's events, also where the log was empty when this was planned: hence the row comparison,
    -- and the `|| ''`.
    select from events later
    where later.member = e.member and (later.member, later.at) >= (e.member, e.at) and later.at < cutoff
      and later.token = e.token and later.cluster || '' = e.cluster and later.revision > e.revision
  ));
  get diagnostics trimmed = row_count;
  delete from evictions v
  where coalesce(v.allowed_at, v.until) < cutoff
    and not exists (select from members m where m.id = v.member and m.token = v.token);
  return trimmed;
end
$$;

-- Sets the retention of this schema: how old an event may get, and how many changes of each cluster are kept. null: no
-- bound; two nulls: no retention. Sweeps begin to keep it immediately: at least within a minute, where a sweep is under
-- way, since this waits for none.
create function :"schema".set_retention(age interval, changes bigint) returns void
language plpgsql
set search_path = :"schema", pg_temp
set timezone = 'UTC' -- Where a day has 24 hours.
set lock_timeout = '5s'
as $$
declare
  moment constant timestamptz := clock_timestamp();
begin
  if age <= interval '0' or moment - age > moment or changes <= 0 then
    raise exception 'age and changes must be more than 0' using errcode = 'invalid_parameter_value',
      hint = 'For example set_retention(''90 days'', null). With null there is no bound.';
  end if;
  -- Not deleted and inserted anew: of two owners at the same time, the second would fail.
  if age is not null or changes is not null then
    insert into retention as r (age, changes) values (set_retention.age, set_retention.changes)
    on conflict (one) do update set age = excluded.age, changes = excluded.changes;
  else
    delete from retention;
  end if;
  update sweeps s set trim_at = (select moment from retention)
  where s.ctid = any (array(select due.ctid from sweeps due for update skip locked));
end
$$;

-- Trims the log of a cluster as far as the retention says: up to 2000 changes at each sweep, and when there are no more,
-- it looks again after a minute. It waits for nobody, and nobody who writes waits for it: only the owner changes old
-- events, and what he has locked is left to him.
--
-- An event from the future was written while the clock was ahead. It is old if one that came after it is old: otherwise
-- nothing would be trimmed until that time comes.
--
-- It goes through the log once, in the order of revisions. An event ends the need for those before it that are of the
-- same registration, and a 'left' event also for itself.
create function :"schema".keep_retention(swept :"schema".sweeps) returns void
language plpgsql
set search_path = :"schema", pg_temp
:planner_settings
as $$
declare
  page constant bigint := 2000;
  moment constant timestamptz := clock_timestamp();
  -- With months in it, an age can be a little less than nothing.
  cutoff constant timestamptz := (
    select least(moment - r.age, moment) from retention r where r.age is not null
  );
  surplus constant bigint := (
    select c.revision - r.changes from clusters c, retention r where c.name = swept.cluster
  );
  -- The last change of which time says that it is old.
  old_to constant bigint := (
    select e.revision from events e where e.cluster = swept.cluster and e.at < cutoff order by e.at desc, e.revision desc limit 1
  );
  looked_at bigint;
  last bigint;
  first_kept bigint;
begin
  select count(*), max(e.revision), min(e.revision) filter (
    where not coalesce(e.at < cutoff or e.at > moment and e.revision < old_to, false) and not coalesce(e.revision <= surplus, false)
      or e.kind = 'left' and e.at between moment - interval '20 seconds' and moment
  )
  into looked_at, last, first_kept
  from (
    select e.revision, e.at, e.kind from events e
    where e.cluster = swept.cluster and e.revision > swept.trimmed_to
    order by e.revision limit page
  ) e;
  last := coalesce(first_kept - 1, last, swept.trimmed_to);
  delete from events e where e.ctid = any (array(
    select old.ctid
    from (
      select distinct on (e.member, e.token) e.member, e.token, e.revision, e.kind,
        max(e.at) over (partition by e.member, e.token) as at -- The time of the last may be before those of others.
      from events e
      where e.cluster = swept.cluster and e.revision > swept.trimmed_to and e.revision <= last
      order by e.member, e.token, e.revision desc
    ) newest
    -- By the index of a member's events: schema.sql says why it is written like this.
    join events old on old.member = newest.member and (old.member, old.at) <= (newest.member, newest.at)
      and old.token = newest.token and old.cluster || '' = swept.cluster
      and (old.revision < newest.revision or newest.kind = 'left' and old.revision = newest.revision)
    for update of old skip locked
  ));
  delete from evictions v where v.ctid = any (array(
    select done.ctid from evictions done
    where done.cluster = swept.cluster and coalesce(done.allowed_at, done.until) < least(moment, coalesce(
        (select e.at from events e where e.cluster = swept.cluster and e.revision > last order by e.revision limit 1), cutoff
      ))
      and not exists (select from members m where m.id = done.member and m.token = done.token)
    for update skip locked
  ));
  update sweeps s set
    trimmed_to = last,
    trim_at = case when looked_at = page and first_kept is null then moment else moment + interval '1 minute' end
  where s.cluster = swept.cluster and s.swept_at = swept.swept_at;
end
$$;

-- ==== down

drop function :"schema".keep_retention(:"schema".sweeps);
drop function :"schema".set_retention(interval, bigint);
drop function :"schema".trim_events(interval);
drop table :"schema".retention;

-- ==== grants: reader

grant select on :"schema".retention to :"role";
