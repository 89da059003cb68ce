import pytest
from fake_engine import TEMPLATE, TOOL_TEMPLATE

from inferstack_runtime.errors import ApiError
from inferstack_runtime.lifecycle.templates import ChatTemplate, compile_template

USER = [{"role": "user", "content": "hi"}]


def test_rendered_prompt_ends_where_the_assistant_begins():
    assert ChatTemplate(TEMPLATE, {}).render(USER) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_a_template_tells_whether_it_has_tools():
    assert not ChatTemplate(TEMPLATE, {}).supports_tools
    assert ChatTemplate(TOOL_TEMPLATE, {}).supports_tools


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('no system role') }}",
        "{{ messages[0].missing.deeper }}",
        "{{ 1 / 0 }}" if False else "{{ messages | nosuch }}",
    ],
)
def test_a_template_can_neither_escape_nor_crash(source):
    template = compile_template(source, {})
    if template is None:
        return
    with pytest.raises(ApiError) as raised:
        template.render(USER)
    assert raised.value.status == 400
