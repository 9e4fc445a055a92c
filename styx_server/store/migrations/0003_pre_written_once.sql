-- What is over stays as it ended, whatever a program believes.

create function refuse_rewrite() returns trigger language plpgsql as $$
begin
    raise exception '% %: what is over is written once', tg_table_name, to_jsonb(old) ->> tg_argv[0]
        using errcode = 'check_violation', constraint = tg_name;
end $$;

-- An ended task changes only by being opened again, and that is a step to another state.
-- Triggers run by name: this one comes after tasks_transition_legal, which has more to say.
create trigger tasks_written_once before update on tasks for each row
when (old.state >= 4 and new.state = old.state)
execute function refuse_rewrite('id');

create trigger attempts_written_once before update on attempts for each row
execute function refuse_rewrite('task_id');
