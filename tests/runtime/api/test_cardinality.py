"""What a thousand tenants send leaves as many series as one tenant, and none that names a person."""

import asyncio

from conftest import running, write_keys

TENANTS = [f"tenant-{i:04}" for i in range(1000)]
ODD = set(TENANTS[::10])


async def test_a_thousand_tenants_make_no_more_series_than_one(tmp_path):
    keys = write_keys(tmp_path / "keys.json", **{name: {"tier": "premium" if i % 2 else "default"} for i, name in enumerate(TENANTS)})
    async with running(access={"keys_file": str(keys)}) as run:

        async def visit(name):
            """A question; of every tenth tenant also what no route, model or key is made for."""
            headers = {"authorization": f"Bearer {name}", "x-request-id": name}
            body = {"model": "fake", "messages": [{"role": "user", "content": f"I am {name}"}], "max_tokens": 2, "user": name}
            assert (await run.post("/v1/chat/completions", body, **headers)).status_code == 200
            if name not in ODD:
                return
            answers = [
                await run.post("/v1/chat/completions", {**body, "model": f"model-of-{name}"}, **headers),
                await run.post("/v1/chat/completions", {**body, "messages": name}, **headers),
                await run.client.get(f"/v1/models/{name}", headers=headers),
                await run.client.get(f"/{name}/{name}", headers=headers),
                await run.client.request("BREW", f"/v1/{name}", headers=headers),
                await run.post("/v1/chat/completions", body, authorization=f"Bearer wrong-{name}"),
            ]
            assert [answer.status_code for answer in answers] == [404, 400, 404, 404, 404, 401], [a.text for a in answers]

        def series():
            run.service.refresh_metrics()
            return {(name, *sorted(labels.items())) for name, labels, _ in run.service.metrics.series()}

        for name in TENANTS[:2]:
            await visit(name)
        few = series()
        for start in range(2, len(TENANTS), 50):
            await asyncio.gather(*(visit(name) for name in TENANTS[start : start + 50]))
        many = series()
        assert many == few, sorted(many - few)[:5]
        text = run.service.metrics.render().decode()
        assert "tenant-" not in text


async def test_the_log_says_whose_answer_it_was_and_what_it_took(tmp_path, caplog):
    keys = write_keys(tmp_path / "keys.json", alice={"tenant": "museum"})
    body = {"model": "fake", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3, "temperature": 0}
    with caplog.at_level("INFO"):
        async with running(access={"keys_file": str(keys)}) as run:
            for _ in range(2):
                assert (await run.post("/v1/chat/completions", body, authorization="Bearer alice")).status_code == 200
    told = [record.fields for record in caplog.records if record.message == "served" and record.fields["tenant"] == "museum"]
    assert [(fields["source"], fields["model"], fields["generated_tokens"]) for fields in told] == [
        ("engine", "fake", 3),
        ("exact", "fake", 3),
    ]
    assert all(fields["prompt_tokens"] > 0 for fields in told)
    assert "Hello" not in str(told)
