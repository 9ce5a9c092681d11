"""No spelling of a path slips past a route that guards it, whatever the servers behind make of the spelling.

Two ways to guard: a route for the guarded paths before a route for everything, and a route for the open paths alone.
"Refused" is a 400: the router cannot know which of the two routes the server's reading belongs to. Case is no matter of
spelling: a server that does not tell it apart is in need of a guard for each.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from router.policy.normal import AmbiguousPath
from router.policy.rewriting import Rewriting
from router.policy.routes import Route, RouteTable
from router.testing import make_exchange

GUARDED = RouteTable([Route("guard", 0, None, paths=["/admin", "/admin/*"]), Route("open", 1, None)])
LISTED = RouteTable([Route("public", 0, None, paths=["/public/*"])])


def way(routes: RouteTable, target: str) -> str:
    try:
        route = routes.match(make_exchange(target=target))
    except AmbiguousPath:
        return "refused"
    return route.name if route is not None else "none"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        # What all servers read alike.
        ("/admin", "guard"),
        ("/admin/", "guard"),
        ("/admin/x", "guard"),
        ("/admin?x", "guard"),
        ("/admin/x?/../y", "guard"),
        ("/administration", "open"),
        ("/x/admin", "open"),
        ("/x?/admin/", "open"),
        ("/x?y=/../admin", "open"),
        ("/", "open"),
        # Escapes of what needs none.
        ("/%61dmin", "guard"),
        ("/%61%64%6D%69%6e/x", "guard"),
        ("/admi%6E/", "guard"),
        # Encoded slashes.
        ("/admin%2Fx", "refused"),
        ("/admin%2fx", "refused"),
        ("/admin%2F", "refused"),
        ("/%2Fadmin", "refused"),
        ("/%2fadmin/x", "refused"),
        ("/x%2F..%2Fadmin", "refused"),
        ("/admin/%2F", "guard"),
        ("/admin/a%2Fb", "guard"),
        ("/x/a%2Fb", "open"),
        ("/x%2Fadmin", "open"),
        # Backslashes.
        ("/admin\\x", "refused"),
        ("/admin%5Cx", "refused"),
        ("/admin%5cx", "refused"),
        ("/\\admin", "refused"),
        ("/x\\..\\admin", "refused"),
        ("/x%5C..%5Cadmin", "refused"),
        ("/x/..\\admin", "refused"),
        ("/x\\y", "open"),
        # Dot segments.
        ("/x/../admin", "guard"),
        ("/x/../admin/y", "guard"),
        ("/x/%2e%2e/admin", "guard"),
        ("/x/%2E%2E/admin", "guard"),
        ("/x/.%2e/admin", "guard"),
        ("/x/%2e./admin", "guard"),
        ("/./admin", "guard"),
        ("/%2e/admin/x", "guard"),
        ("/../admin", "guard"),
        ("/..%2Fadmin", "refused"),
        ("/%2e%2e%2fadmin", "refused"),
        ("/admin/.", "guard"),
        ("/admin/./x", "guard"),
        ("/admin/x/..", "guard"),
        ("/admin/../admin/x", "guard"),
        ("/admin/..", "open"),
        ("/admin/../x", "open"),
        ("/admin/%2e%2e/x", "open"),
        ("/admin/..%2Fx", "refused"),
        ("/x/../y", "open"),
        ("/x/./y", "open"),
        # Empty segments.
        ("//admin", "guard"),
        ("//admin/x", "guard"),
        ("///admin", "guard"),
        ("/admin//x", "guard"),
        ("/x//admin", "open"),
        ("//host/admin", "open"),
        ("//host/admin/x", "open"),
        ("/\\host/admin", "open"),
        ("//host//admin", "open"),
        ("/x//../admin", "refused"),
        ("/admin//../x", "refused"),
        ("//x//y", "open"),
        # Parameters of segments.
        ("/admin;x", "refused"),
        ("/admin;x=1/y", "refused"),
        ("/admin;/y", "refused"),
        ("/;x/admin", "refused"),
        ("/admin%3Bx", "refused"),
        ("/x/..;/admin", "refused"),
        ("/x/..;y=1/admin/z", "refused"),
        ("/admin/x;y", "guard"),
        ("/x;y/z", "open"),
        # Ends that only some see.
        ("/admin%00", "refused"),
        ("/admin%00.png", "refused"),
        ("/admin/%00", "guard"),
        ("/x%00/../admin", "refused"),
        ("/admin%3Fx", "refused"),
        ("/admin%23x", "refused"),
        ("/x%00/admin", "open"),
        ("/what%3F", "open"),
        ("/x;%00/admin", "open"),
        ("/;%3F/admin", "refused"),
        ("/;%5Cx/admin", "refused"),
        ("/%3F/..%5Cadmin", "refused"),
        # Escapes of escapes.
        ("/admin%252Fx", "refused"),
        ("/%2561dmin", "refused"),
        ("/x/%252e%252e/admin", "refused"),
        ("/x/%25%32%65%252e/admin", "refused"),
        ("/x%255C..%255Cadmin", "refused"),
        ("/admin%25252Fx", "refused"),
        ("/admin%2525252525252Fx", "refused"),
        ("/%25", "open"),
        ("/100%25/x", "open"),
        # Dots and blanks at the end of a name are part of it.
        ("/admin.", "open"),
        ("/admin../x", "open"),
        ("/admin./x", "open"),
        ("/admin%2e/x", "open"),
        ("/admin%20", "open"),
        ("/admin%20./x", "open"),
        ("/x/..%20/admin", "open"),
        ("/admin.html", "open"),
        ("/x/...", "open"),
        # Case counts.
        ("/ADMIN", "open"),
        ("/Admin/x", "open"),
        ("/%41dmin", "open"),
        ("/ADMINISTRATION", "open"),
        ("/X/Admin", "open"),
        # Over-long UTF-8 is no slash and no dot.
        ("/admin%c0%afx", "open"),
        ("/x/%c0%ae%c0%ae/admin", "open"),
        # Several at once.
        ("/%61dMIN%2fX", "open"),
        ("/%61dmin%5c", "refused"),
        ("/admin;x%2Fy", "refused"),
        ("/admin;/..%2Fy", "refused"),
        ("/x%00%2F..%2F..%2Fadmin", "refused"),
        ("//%61dmin;/x", "refused"),
        ("/x%2F%2e%2e%5cadmin%252f", "refused"),
        ("/admin%2Fx/..;/..;/y", "refused"),
        ("/admin%5Cx/%2F/%2F/../../y", "refused"),
        ("/admin%2Fx/.../.../../../y", "refused"),
    ],
)
def test_a_guard_before_a_route_for_everything(target: str, expected: str) -> None:
    assert way(GUARDED, target) == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/public/x", "public"),
        ("/public/", "public"),
        ("/public/a%2Fb", "public"),
        ("/public/A;b", "public"),
        ("/public/x/../y", "public"),
        ("/public/x//y", "public"),
        ("/public/%00", "public"),
        ("/public", "none"),
        ("/admin", "none"),
        ("/public/../admin", "none"),
        ("/public/%2e%2e/admin", "none"),
        ("/PUBLIC/x", "none"),
        ("/public%2Fx", "none"),
        ("/public/..%2Fadmin", "refused"),
        ("/public/..%5Cadmin", "refused"),
        ("/public/..\\admin", "refused"),
        ("/public/..;/admin", "refused"),
        ("/public/%252e%252e/admin", "refused"),
        ("/public//../admin", "none"),
        ("/public/x//../../admin", "none"),
        ("/public/x//../admin", "public"),
        ("/public/x%2F../../admin", "refused"),
        ("/public/x%2Fy/../../admin", "none"),
        ("/admin/../public/x", "public"),
        ("//public/admin", "public"),
        ("//public//public;/", "public"),
        ("//host/public/x", "none"),
        ("//public/public/x", "public"),
        ("/\\public/admin", "none"),
        ("/public/..%00", "refused"),
    ],
)
def test_a_route_for_the_open_paths_alone(target: str, expected: str) -> None:
    assert way(LISTED, target) == expected


# Against servers of every kind.


def strictly(path: str) -> str:
    """RFC 3986: escapes decoded but for the slash, and dot segments removed as §5.2.4 has it."""
    return climbed(re.sub("%(?!2[Ff])([0-9A-Fa-f]{2})", lambda found: chr(int(found[1], 16)), path))


def decoded(path: str) -> str:
    return re.sub("%([0-9A-Fa-f]{2})", lambda found: chr(int(found[1], 16)), path)


def climbed(path: str) -> str:
    done: list[str] = []
    for segment in path.split("/")[1:]:
        if segment in (".", ".."):
            del done[len(done) - (segment == "..") :]
        else:
            done.append(segment)
    return "/" + "/".join(done)


def without_parameters(path: str) -> str:
    return "/".join(segment.partition(";")[0] for segment in path.split("/"))


SERVERS = {
    "strict": strictly,
    "decodes %2F": lambda path: climbed(decoded(path)),
    "decodes twice": lambda path: climbed(decoded(decoded(path))),
    "cuts parameters": lambda path: strictly(without_parameters(path)),
    "cuts parameters, decodes %2F": lambda path: climbed(decoded(without_parameters(path))),
    "decodes %2F, cuts parameters": lambda path: climbed(without_parameters(decoded(path))),
    "merges slashes": lambda path: strictly(re.sub("/+", "/", path)),
    "backslashes": lambda path: climbed(decoded(path).replace("\\", "/")),
    "ends at NUL": lambda path: climbed(decoded(path).partition("\0")[0]),
    "ends at an encoded ?": lambda path: climbed(decoded(path).partition("?")[0]),
}
PIECES = r"/ / // /../ /.. admin admin/ public x .. . %2F %2e%2e %5C \ ; ;x %00 %25 252F %252e %61dmin %3F %3b ... %"
SPELLED = st.lists(st.sampled_from(PIECES.split(" ")), max_size=9).map(lambda pieces: "/" + "".join(pieces))


@pytest.mark.parametrize("server", SERVERS)
@settings(max_examples=400, deadline=None)
@given(SPELLED)
@example("/x/../admin")
@example("/admin//../x")
@example("/admin%2Fx/..;/..;/y")
@example("/admin;/..%2Fy")
@example("/admin%2Fx/;a/../../y")
@example("/admin%5Cx/%2F/%2F/../../y")
@example("/x%00%2F..%2F..%2Fadmin")
@example("/%3F;/../admin%00x")
@example("/x//../admin")
@example("/;%3F/admin")
@example("/;%2Fx/admin")
@example("/%3B%00/admin")
@example("/;\\x/admin")
@example("/%3F/..%5Cadmin")
@example("/admin/%252F..")
@example("/x/%252e%252e/admin")
def test_what_a_server_finds_below_a_guarded_prefix_took_the_guards_route(server: str, path: str) -> None:
    read = SERVERS[server](path)
    if f"{read}/".startswith("/admin/"):
        assert way(GUARDED, path) in ("guard", "refused")
        assert way(LISTED, path) in ("none", "refused")


def test_usual_paths_are_never_refused() -> None:
    for target in (
        "/public/a%2Fb/%2e%2e/c",
        "/files/http:%2F%2Fa.test%2Fb",
        "/caf%C3%A9/%E2%82%AC",
        "/a%20b/c;v=2/d",
        "/50%25",
        "/x.tar.gz",
        "/.well-known/x",
        "/a//b/../c",
        "/what%3F",
    ):
        assert way(GUARDED, target) == "open"
        assert way(GUARDED, f"/admin{target}") == "guard"
        assert way(LISTED, f"/public{target}") == "public"


def test_the_reason_names_both_routes() -> None:
    with pytest.raises(AmbiguousPath, match="leads to route open, or to route guard if read loosely"):
        GUARDED.match(make_exchange(target="/admin%2Fx"))
    with pytest.raises(AmbiguousPath, match="leads to route public, or to none if read loosely"):
        LISTED.match(make_exchange(target="/public/..%2Fx"))


def test_where_paths_change_nothing_they_are_not_looked_at() -> None:
    anything = RouteTable([Route("all", 0, None)])
    by_method = RouteTable([Route("post", 0, None, methods=["POST"]), Route("rest", 1, None)])
    for target in ("/..%2Fx", "//host/x", "/a;b/..\\c", "/%25252525252F", "/%00"):
        assert way(anything, target) == "all"
        assert way(by_method, target) == "rest"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/api/x/../y", "all"),
        ("/api/x%2Fy", "all"),
        ("/api/x;y", "all"),
        ("/api/%2e%2e/x", "all"),
        ("/api/..%2F..%2Fx", "refused"),
        ("/api/..;/x", "refused"),
        ("/api/..\\x", "refused"),
        ("/api/%252e%252e/x", "refused"),
        # Whoever cuts off parameters climbs once more than others do.
        ("/api/a/;x/../../api/z", "refused"),
    ],
)
def test_where_a_route_moves_paths_nobody_climbs_out_of_the_new_prefix(target: str, expected: str) -> None:
    moving = RouteTable([Route("all", 0, None, rewriting=Rewriting("/api", "/v2"))])
    assert way(moving, target) == expected
    fields_alone = RouteTable([Route("all", 0, None, rewriting=Rewriting(host="a.test"))])
    assert way(fields_alone, target) == "all"


@settings(max_examples=600, deadline=None)
@given(SPELLED, st.sampled_from(list(SERVERS)), st.sampled_from(["", "/api"]))
@example("/a/;x/../../api/z", "cuts parameters", "/api")
def test_what_a_server_makes_of_a_moved_path_lies_below_the_new_prefix(path: str, server: str, strip: str) -> None:
    rewriting = Rewriting(strip, "/v2")
    moving = RouteTable([Route("all", 0, None, rewriting=rewriting)])
    path = strip + path
    sent = rewriting.request(path, b"")[0]
    if way(moving, path) == "all" and sent != path:
        assert f"{SERVERS[server](sent)}/".startswith("/v2/")


def test_other_conditions_hold_for_loose_forms_too() -> None:
    routes = RouteTable([Route("guard", 0, None, paths=["/admin/*"], methods=["POST"]), Route("rest", 1, None)])
    assert way(routes, "/admin%2Fx") == "rest"
    with pytest.raises(AmbiguousPath, match="guard"):
        routes.match(make_exchange("POST", "/admin%2Fx"))
    assert way(routes, "*") == "rest"


def test_a_path_that_takes_no_route_is_not_read_any_further() -> None:
    for target in ("/private%2Fx", "/%25252525252F", "/x/..%2Fpublic/y"):
        assert way(LISTED, target) == "none"
