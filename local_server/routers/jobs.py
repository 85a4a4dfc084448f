"""The routes of jobs: requests that are answered before they are transcribed. Knows nothing of decoding."""

import asyncio
from contextlib import AsyncExitStack, aclosing
from functools import partial

from fastapi import FastAPI, Request, Response

from handler.audio.source import AudioSource
from handler.errors import InvalidRequest
from handler.output.formats import to_object
from handler.output.json_encoding import encode_json
from handler.schema.options import Options
from handler.schema.transcript import Transcript
from handler.transcription.admission import Place
from handler.transcription.pipeline import Pipeline
from local_server.background.background_jobs import Answer, BackgroundJob, BackgroundJobs
from local_server.background.webhook import check_webhook
from local_server.openapi.jobs import CREATED_RESPONSES, JOB_REQUEST, JOB_RESPONSES, REMOVED_RESPONSES
from local_server.routers.asr_request import CALLBACK_URL, parse_job_request
from local_server.state import ServerState
from local_server.uploads.early_start import start_early
from local_server.uploads.fields import join_arrays
from local_server.uploads.request_body import JSON, RequestBody, media_type_of, receive_body

PATH = "/jobs"


def add_jobs(app: FastAPI, state: ServerState, jobs: BackgroundJobs) -> None:
    """Add the routes of jobs to an application."""

    @app.post(PATH, openapi_extra=JOB_REQUEST, responses=CREATED_RESPONSES, status_code=202)
    async def create(request: Request) -> Response:
        """Accept audio as `POST /asr` does, and answer at once. The transcript comes later, under the job's id."""
        return await _create(request, state, jobs)

    @app.get(PATH + "/{job_id}", responses=JOB_RESPONSES)
    async def describe(job_id: str) -> Response:
        """Tell how far a job has got and, once it has ended, its transcript or its error."""
        return Response(await jobs.describe(job_id), media_type=JSON)

    @app.delete(PATH + "/{job_id}", responses=REMOVED_RESPONSES, status_code=204)
    async def remove(job_id: str) -> Response:
        """End a job if it has not ended, and forget its transcript."""
        await jobs.remove(job_id)
        return Response(status_code=204)


async def _create(request: Request, state: ServerState, jobs: BackgroundJobs) -> Response:
    pipeline, settings = state.require_pipeline(), state.settings
    jobs.check_room()
    is_upload = media_type_of(request) != JSON
    # A file takes up room from the first byte on; an address can wait until there is a place.
    async with receive_body(request, pipeline, settings, is_admitted=is_upload) as body:
        if body.place is not None:
            body.place.only_receives = True

        async def parse(_: AsyncExitStack) -> tuple[AudioSource, Options, str | None]:
            source, options, callback_url = await parse_job_request(
                body, join_arrays(request.query_params.multi_items())
            )
            pipeline.check(options)
            if callback_url is not None and not settings.webhook_secrets:
                expected = "WEBHOOK_SECRET is not set, and messages must be signed"
                raise InvalidRequest(f"{CALLBACK_URL} must be left out: {expected}", CALLBACK_URL)
            if callback_url is not None:
                await check_webhook(callback_url)
            return source, options, callback_url

        source, options, callback_url = await start_early(body, parse)
        request.scope["asr_kind"] = "url" if source.url else "file"
        await body.in_time(body.state.until_ended())
        job = await _start(jobs, pipeline, body, source, options, callback_url)
    headers = {"Location": f"{PATH}/{job.id}"}
    return Response(encode_json(job.as_dict()), 202, headers, JSON)


async def _start(
    jobs: BackgroundJobs,
    pipeline: Pipeline,
    body: RequestBody,
    source: AudioSource,
    options: Options,
    callback_url: str | None,
) -> BackgroundJob:
    """Start a job, which takes over what belongs to its request, and waits for a place."""
    life = body.life.pop_all()
    if body.place is not None:
        body.place.leave()  # with which the file has been received

    async def work(job: BackgroundJob) -> Answer:
        async with life:
            with await pipeline.wait_for_place() as place:
                job.begin()
                return await _transcribe(pipeline, source, options, place, job)

    try:
        return await jobs.start(work, callback_url)
    except BaseException:
        await life.aclose()
        raise


async def _transcribe(
    pipeline: Pipeline, source: AudioSource, options: Options, place: Place, job: BackgroundJob
) -> Answer:
    async with aclosing(pipeline.stream(source, options, place=place)) as stream:
        async for item in stream:
            if isinstance(item, Transcript):
                return await asyncio.to_thread(partial(to_object, item, options.format))
            job.report(item)
    raise AssertionError("a stream ends with a transcript, or with an error")
