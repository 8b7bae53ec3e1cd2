"""Every setting, typed: the schema, overrides and presets."""

from xkd.config.finetune import FinetuneAudioConfig as FinetuneAudioConfig
from xkd.config.finetune import FinetuneConfig as FinetuneConfig
from xkd.config.finetune import FinetuneVideoConfig as FinetuneVideoConfig
from xkd.config.model import AttentionQuery as AttentionQuery
from xkd.config.model import LossConfig as LossConfig
from xkd.config.model import ModalityConfig as ModalityConfig
from xkd.config.model import ProjectorConfig as ProjectorConfig
from xkd.config.model import RefineConfig as RefineConfig
from xkd.config.model import TransformerConfig as TransformerConfig
from xkd.config.pretrain import OptimConfig as OptimConfig
from xkd.config.pretrain import PretrainConfig as PretrainConfig
from xkd.config.pretrain import RunConfig as RunConfig
from xkd.config.pretrain import check_division as check_division
from xkd.config.pretrain import load_config as load_config
from xkd.config.types import MODALITIES as MODALITIES
from xkd.config.types import Modality as Modality
from xkd.config.types import other as other
from xkd.config.views import AudioAugment as AudioAugment
from xkd.config.views import ClipConfig as ClipConfig
from xkd.config.views import VideoAugment as VideoAugment
from xkd.config.views import ViewsConfig as ViewsConfig
