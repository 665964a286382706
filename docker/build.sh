#!/bin/sh
# Build the images with docker, or with buildah if docker is not running: docker/build.sh [cpu] [cuda] [mlflow]
#
#   BUILDER      docker or buildah; default: the first one that works
#   BASE         base image; default: as in the Dockerfile. Use a digest to pin the base image exactly
#   TORCH_INDEX  package index for torch in the cpu image, such as PyTorch's index for CPUs; default: the usual index,
#                whose torch includes CUDA
#   PIP_CONF     pip.conf for the build, for a mirror or a private CA; it is not copied into the images
#   BUILD_FLAGS  more flags for the builder
set -eu
cd "$(dirname "$0")/.."

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' components/cliptea/__init__.py)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)

fail() {
    echo "error: $1" >&2
    exit 1
}

# Check the arguments before the first build, which takes minutes.
for image in "${@:-cpu}"; do
    case $image in
    cpu | cuda | mlflow) ;;
    *) fail "the image $image does not exist; expected cpu, cuda or mlflow" ;;
    esac
done

if [ -z "${BUILDER:-}" ]; then
    if docker info >/dev/null 2>&1; then
        BUILDER=docker
    elif command -v buildah >/dev/null; then
        BUILDER=buildah
    else
        fail "neither a docker that runs nor buildah is here; install one of them"
    fi
fi
case $BUILDER in
docker) docker info >/dev/null 2>&1 || fail "docker does not run here; start it, or set BUILDER=buildah" ;;
buildah) command -v buildah >/dev/null || fail "there is no buildah here; install it, or set BUILDER=docker" ;;
*) fail "BUILDER=$BUILDER; expected docker or buildah" ;;
esac

build() { # tag, Dockerfile, further flags
    tag=$1 file=$2
    shift 2
    set -- "$@" --tag "$tag" --file "$file" --build-arg VERSION="$version" --build-arg REVISION="$revision"
    [ -z "${BASE:-}" ] || set -- "$@" --build-arg BASE="$BASE"
    [ -z "${TORCH_INDEX:-}" ] || set -- "$@" --build-arg TORCH_INDEX="$TORCH_INDEX"
    [ -z "${PIP_CONF:-}" ] || set -- "$@" --secret "id=pip,src=$PIP_CONF"
    echo "$BUILDER: $tag"
    # shellcheck disable=SC2086 # flags are split on purpose
    case $BUILDER in
    docker) docker build ${BUILD_FLAGS:-} "$@" . ;;
    buildah) buildah bud --format docker ${BUILD_FLAGS:-} "$@" . ;;
    esac
}

for image in "${@:-cpu}"; do
    case $image in
    cpu) build "cliptea:$version" docker/Dockerfile --target cpu ;;
    cuda) build "cliptea:$version-cuda" docker/Dockerfile --target cuda ;;
    mlflow) build "cliptea-mlflow:$version" docker/mlflow.Dockerfile ;;
    esac
done
