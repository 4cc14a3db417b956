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

-- PostgreSQL lets everybody execute a new function. What roles of applications need is granted by
-- grants/reader.sql, grants/member.sql and grants/operator.sql.
revoke all on all functions in schema :"schema" from public;
