"""What a run is: frozen dataclasses, one tree per command; the attribute docstrings are the help."""

from tlearn.config.commands import (
    EXPORTS as EXPORTS,
)
from tlearn.config.commands import (
    BenchConfig as BenchConfig,
)
from tlearn.config.commands import (
    CheckConfig as CheckConfig,
)
from tlearn.config.commands import (
    DemoConfig as DemoConfig,
)
from tlearn.config.commands import (
    ExportConfig as ExportConfig,
)
from tlearn.config.commands import (
    PublishConfig as PublishConfig,
)
from tlearn.config.commands import (
    ReportConfig as ReportConfig,
)
from tlearn.config.commands import (
    SubmitConfig as SubmitConfig,
)
from tlearn.config.commands import (
    WeightsConfig as WeightsConfig,
)
from tlearn.config.scoring import (
    CompareConfig as CompareConfig,
)
from tlearn.config.scoring import (
    EvaluateConfig as EvaluateConfig,
)
from tlearn.config.scoring import (
    ScoreConfig as ScoreConfig,
)
from tlearn.config.scoring import (
    ScoresConfig as ScoresConfig,
)
from tlearn.config.scoring import (
    VerifyConfig as VerifyConfig,
)
from tlearn.config.training import (
    HeadConfig as HeadConfig,
)
from tlearn.config.training import (
    OptimConfig as OptimConfig,
)
from tlearn.config.training import (
    PreprocessConfig as PreprocessConfig,
)
from tlearn.config.training import (
    TrainConfig as TrainConfig,
)
from tlearn.config.values import (
    Arch as Arch,
)
from tlearn.config.values import (
    CascadeChoice as CascadeChoice,
)
from tlearn.config.values import (
    DecodeChoice as DecodeChoice,
)
from tlearn.config.values import (
    EngineChoice as EngineChoice,
)
from tlearn.config.values import (
    Precision as Precision,
)
from tlearn.config.values import (
    PrecisionChoice as PrecisionChoice,
)
from tlearn.config.values import (
    digest as digest,
)
