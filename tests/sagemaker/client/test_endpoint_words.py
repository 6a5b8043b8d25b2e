"""The words that users of AWS's SDK bring to endpoints and batch transforms: each is taken, or answered with ours."""

import ast

import pytest
from helpers import environment

from mlkit.sagemaker.client.endpoint_requests import Machines, take_arguments
from mlkit.sagemaker.client.options import make_options
from mlkit.sagemaker.client.transforms import TransformOptions

# Of sagemaker-serve 1.27.0, which version 3 of the SDK has for endpoints: ModelBuilder, its build and its deploy.
V3 = """
model model_path inference_spec schema_builder modelbuilder_list role_arn sagemaker_session image_uri s3_model_data_url
source_code env_vars model_server model_metadata log_level content_type accept_type compute network instance_type mode
shared_libs dependencies image_config model_name region reuse_resources tags endpoint_name initial_instance_count wait
update_endpoint container_timeout_in_seconds inference_config custom_orchestrator_instance_type
custom_orchestrator_initial_instance_count use_recommendation recommendation recommendation_index
recommendation_spec_name auto_approve role endpoint_config_name
"""
# What the functions take besides options; what `take_arguments` leaves to them.
DEPLOY = {"bundle": None, "target": None, "name": None, "wait": None, "content_type": None}
TRANSFORM = {"bundle": None, "data": None, "target": None, "name": None}
# Values that their words can take; for all others "x" does.
VALUES = {
    "serverless_inference_config": {"memory_size_in_mb": 2048, "max_concurrency": 5},
    "routing_config": {"RoutingStrategy": "RANDOM"},
    "vpc_config": {"Subnets": ["a"], "SecurityGroupIds": ["b"]},
    "vpc_config_override": {"Subnets": ["a"], "SecurityGroupIds": ["b"]},
    "network": {"subnets": ["a"]},
    "compute": {"instance_type": "ml.m5.large", "instance_count": 1},
    "source_code": {"source_dir": "src"},
    "model_client_config": {"InvocationsTimeoutInSeconds": 60},
    "tags": [{"Key": "team", "Value": "a"}],
    "env": {"A": "1"},
    "env_vars": {"A": "1"},
}


def parameters(module, **functions):
    """Return the parameters of methods of the SDK's version 2, read from its source."""
    (folder,) = (environment("v2").parent / "lib").glob("python3*/site-packages/sagemaker")
    tree = ast.parse((folder / module).read_text())
    names = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in functions:
            for function in node.body:
                if isinstance(function, ast.FunctionDef) and function.name in functions[node.name]:
                    names |= {a.arg for a in (*function.args.args, *function.args.kwonlyargs)}
    assert names, module
    return names - {"self", "kwargs"}


def unanswered(names, cls, owner, arguments):
    """Return the words that are neither taken nor answered."""
    result = {}
    for name in sorted(names):
        try:
            _, options = take_arguments(cls, owner, arguments, {name: VALUES.get(name, "x")})
            make_options(cls, options, owner, *arguments)
        except TypeError as e:
            answer = str(e)
            if "did you mean" in answer or "expected one of" in answer or "takes no" not in answer:
                result[name] = answer
    return result


def test_every_parameter_of_a_model_and_its_deploy_in_version_2():
    names = parameters("model.py", Model=("__init__", "deploy"), FrameworkModel=("__init__",))
    names |= parameters("pytorch/model.py", PyTorchModel=("__init__",))
    names |= parameters("estimator.py", EstimatorBase=("deploy",))
    names |= parameters("base_predictor.py", Predictor=("update_endpoint",))
    assert len(names) > 50
    assert not unanswered(names, Machines, "deploy", DEPLOY)


def test_every_parameter_of_a_transformer_in_version_2():
    names = parameters("transformer.py", Transformer=("__init__", "transform"))
    names |= parameters("estimator.py", EstimatorBase=("transformer",))
    assert not unanswered(names, TransformOptions, "transform", TRANSFORM)


def test_every_parameter_of_a_model_builder_in_version_3():
    assert not unanswered(V3.split(), Machines, "deploy", DEPLOY)


@pytest.mark.parametrize(
    "words, expected",
    [
        (dict(initial_instance_count=2, instance_type="m5.large"), dict(count=2, instance="ml.m5.large")),
        (dict(tags=[dict(Key="team", Value="a")]), dict(tags={"team": "a"})),
        (dict(serverless_inference_config=VALUES["serverless_inference_config"]), dict(serverless=True, memory=2048)),
        (dict(env_vars={"A": "1"}, role_arn="arn:role"), dict(environment={"A": "1"}, role="arn:role")),
        (dict(routing_config=VALUES["routing_config"], inference_ami_version="v"), dict(routing="RANDOM", ami="v")),
        (
            dict(container_startup_health_check_timeout=900, model_data_download_timeout=60),
            dict(startup=900, download=60),
        ),
    ],
)
def test_a_word_has_its_value(words, expected):
    _, options = take_arguments(Machines, "deploy", DEPLOY, words)
    options = make_options(Machines, options, "deploy")
    assert {name: getattr(options, name) for name in expected} == expected
